"""Online DiffusionNFT over epochs, exact: laws carried on a grid, closed forms beside them.

`spec`: what an epoch does and the closed forms of its tilt; `online`: run it; `grid`, `moments`,
`flow`: the numbers; `reference`: the law that an anchor pulls to; `checks`: what a grid can hold;
`mapped`: epochs whose rewards the released code maps; `stages`: exp(a r) in stages, what it costs.
"""

from theory.recursion.checks import DivergedError, GridError
from theory.recursion.online import Trajectory, carry
from theory.recursion.spec import Mode, Recursion, TwoKL

__all__ = ["DivergedError", "GridError", "Mode", "Recursion", "Trajectory", "TwoKL", "carry"]
