"""Pictures of small made-up results; a warning is an error here."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from toys.evaluation import draw


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def density(axes, mean, std=1.0):
    grids = np.meshgrid(*axes, indexing="ij")
    square = sum(((g - mean) / std) ** 2 for g in grids)
    return np.exp(-0.5 * square) / (std * np.sqrt(2 * np.pi)) ** len(axes)


def made_up(dim, method="nft", std=1.0, **values):
    """(result, curves) of a run in d = dim."""
    axes = [np.linspace(-5, 5, 41) for _ in range(dim)]
    rng = np.random.default_rng(0)
    curves = {f"axis.{i}": a for i, a in enumerate(axes)}
    curves |= {"samples": rng.normal(0.5, std, (300, dim)), "trained": density(axes, 0.5, std),
               "optimum": density(axes, 0.6), "target": density(axes, 0.8),
               "start": density(axes, 0.0)}  # fmt: skip
    result = {
        "problem": "made_up", "method": method, "dim": dim, "to_go": 0.8, "method_bias": 0.2,
        "learning_error": 0.1, "learning_share": 0.125, "sampling_error": 0.02,
        "sampling_floor": 0.03, "seed": 0,
    } | values  # fmt: skip
    return result, curves


def ink(figure):
    """Share of the pixels that are not white."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    return float((pixels.min(-1) < 250).mean())


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("count", [1, 4])
def test_panels(dim, count):
    label = "weighted_flow_matching:wrapper=truncated,order=2,scale=2"
    made = [made_up(dim, label if i else "nft") for i in range(count)]
    figure = draw.panels("made_up", [m[0] for m in made], [m[1] for m in made])
    shown = [a for a in figure.axes if a.axison]
    assert len(shown) == count
    assert all("learning error 12.5 % of the way" in a.get_title() for a in shown)
    assert "weighted_flow_matching:\nwrapper" in shown[-1].get_title() or count == 1
    assert ink(figure) > 0.05
    assert ink(plt.figure()) == 0.0


def test_a_panel_shows_draws_and_three_laws():
    figure = draw.panels("made_up", *([part] for part in made_up(1)))
    (axes,) = [a for a in figure.axes if a.axison]
    _, labels = axes.get_legend_handles_labels()
    assert len(labels) == 4
    bars = sum(p.get_height() * p.get_width() for p in axes.patches)
    assert bars == pytest.approx(1.0)
    for line, name in zip(axes.lines, ("start", "optimum", "target"), strict=True):
        assert np.array_equal(line.get_ydata(), made_up(1)[1][name])


def test_a_plane_is_not_turned():
    _, curves = made_up(2)
    axes = [curves["axis.0"], curves["axis.1"]]
    centre = np.array([1.5, -2.0])
    spike = np.exp(-sum((g - c) ** 2 for g, c in zip(np.meshgrid(*axes, indexing="ij"), centre,
                                                     strict=True)))  # fmt: skip
    law = dict.fromkeys(("trained", "optimum", "target"), spike)
    figure = draw.panels("made_up", [made_up(2)[0]], [curves | law])
    (shown,) = [a for a in figure.axes if a.axison]
    assert len(shown.collections) == 3
    for lines in shown.collections[1:]:
        places = np.concatenate([p.vertices for p in lines.get_paths() if len(p.vertices)])
        assert np.abs(places.mean(0) - centre).max() < 0.1


@pytest.mark.parametrize("std", [0.1, 4.0])
def test_laws_of_very_different_heights(std):
    """Contours of a law far below another's peak are no warning."""
    figure = draw.panels("made_up", *([part] for part in made_up(2, std=std)))
    assert ink(figure) > 0.05


@pytest.mark.parametrize("problems", [["a"], ["a", "b"]])
def test_budget(problems):
    results = [made_up(1, problem=p)[0] for p in problems for _ in range(2)]
    results[0] |= {"learning_error": 0.0, "method_bias": 0.0}
    figure = draw.budget(results, "parts of the error")
    (axes,) = figure.axes
    widths = [bar.get_width() for part in axes.containers for bar in part]
    expected = [100 * r[k] / r["to_go"] for k, *_ in draw.PARTS for r in results]
    assert widths == expected
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names[-1] == ("nft" if len(problems) == 1 else "b  nft")
    assert axes.get_title() == "parts of the error"
    assert ink(figure) > 0.05


def test_a_budget_of_several_targets_names_them():
    results = [made_up(1, target=target)[0] for target in ("p exp(4r)", "p exp(2r)")]
    (axes,) = draw.budget(results, "parts").axes
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "nft to p exp(4r)", "nft to p exp(2r)",
    ]  # fmt: skip
    (axes,) = draw.budget(results[:1] * 2, "parts").axes
    assert {t.get_text() for t in axes.get_yticklabels()} == {"nft"}


def test_long_labels_are_cut_at_their_options():
    assert draw.wrapped("nft") == "nft"
    assert draw.wrapped("a" * 40) == "a" * 40
    assert draw.wrapped("a" * 30 + ":b=1") == "a" * 30 + ":b=1"
    assert draw.wrapped("a" * 40 + ":b=1") == "a" * 40 + ":\nb=1"
