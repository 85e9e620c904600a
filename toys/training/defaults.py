"""What commands take where nothing else is asked for; read without torch."""

WIDTH, DEPTH = 64, 3  # hidden units and layers of a network
# The named problems that networks are trained on, by dimension.
LINE = ("note_1d", "bumps_1d", "linear_1d", "quadratic_1d")
PLANE = ("bump_2d", "linear_2d", "quadratic_2d")
