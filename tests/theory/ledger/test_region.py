"""Maps of where an approximation is good enough."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest

from theory.ledger.core.region import GOOD, Region

X, Y = np.linspace(0.5, 2.0, 4), np.linspace(0.1, 1.0, 5)
RAMP = Region("a ramp", "size of x", X, "size of y", Y, 0.08 * X[:, None] * Y[None, :], "TV")


def test_share():
    errors = np.array([[0.0, 0.02], [0.04, 0.5]])
    region = Region("t", "x", np.array([1.0, 2.0]), "y", np.array([1.0, 2.0]), errors, "e")
    assert region.share(0.01) == 1 / 4
    assert region.share(0.05) == 3 / 4
    assert region.share(0.04) == 2 / 4  # below, not at
    errors[1, 1] = np.nan  # not measured: of the rest
    assert region.share(0.05) == 1
    assert region.share(0.03) == 2 / 3


def test_limits():
    errors = np.array(
        [
            [0.00, 0.00, 0.00, 0.00, 0.00],  # good everywhere
            [0.00, 0.00, 0.10, 0.10, 0.10],
            [0.00, 0.10, 0.00, 0.00, 0.00],  # good again later: what counts is up to where
            [0.10, 0.00, 0.00, 0.00, 0.00],
        ]
    )
    region = replace(RAMP, errors=errors)
    assert region.limits(0.05) == [Y[-1], Y[1], Y[0], 0.0]
    errors[0, 3] = np.nan  # nobody knows
    assert region.limits(0.05)[0] == Y[2]


def test_words_and_json():
    text = RAMP.figure()
    assert text.startswith("TV below 1 % on ")
    assert f"below 5 % on {100 * RAMP.share(0.05):.0f} %" in text
    data = json.loads(json.dumps(RAMP.as_json()))
    assert data["share"] == {f"{b:g}": RAMP.share(b) for b in GOOD}
    assert data["limits"]["0.05"] == RAMP.limits(0.05)
    assert np.shape(data["errors"]) == (4, 5)
    assert len(data["size of x"]) == 4
    assert data["title"] == "a ramp"


CASES = {
    "both levels": RAMP.errors,
    "one level": np.linspace(0.02, 0.2, 20).reshape(4, 5),
    "none, all good": np.full((4, 5), 1e-7),
    "none, all bad": np.linspace(0.2, 3.0, 20).reshape(4, 5),
    "zero": np.zeros((4, 5)),
    "with gaps": np.where(RAMP.errors > 0.1, np.nan, RAMP.errors),
}


@pytest.mark.parametrize(
    ("name", "log_axes"), [*((name, "") for name in CASES), ("both levels", "xy")]
)
def test_picture(name, log_axes):
    figure = replace(RAMP, errors=CASES[name], log_axes=log_axes).draw()
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    axes, bar = figure.axes
    shown = (axes.get_xlabel(), axes.get_ylabel(), axes.get_title())
    assert shown == ("size of x", "size of y", "a ramp")
    assert bar.get_ylabel().startswith("TV")
    assert axes.get_xscale() == axes.get_yscale() == ("log" if log_axes else "linear")
    levels = [text.get_text() for text in axes.texts]
    inside = [b for b in GOOD if np.nanmin(CASES[name]) < b < np.nanmax(CASES[name])]
    assert set(levels) <= {f"{100 * b:g} %" for b in inside}
    assert ("1 %" in "".join(levels)) == (0.01 in inside)
    plt.close(figure)
    buffer.seek(0)
    picture = matplotlib.image.imread(buffer)
    assert picture[..., :3].std() > 0


def test_picture_of_a_single_row():
    thin = Region("t", "x", X[:1], "y", Y, RAMP.errors[:1], "e")
    plt.close(thin.draw())
