"""The built-in pictures and their verifier."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d, pad

from scaleup.builtin import shapes
from scaleup.builtin.shapes import (
    CAPTIONS,
    COLOURS,
    PROMPTS,
    SHAPES,
    draw_pictures,
    verify,
    verify_shapes,
)
from tests.scaleup.builtin.test_builtin import at_most, right, seeded

# Shares that hold, measured on more samples than the tests take.
MISREAD_TRUE = 0.001  # 0 of 24,000 true pictures
MISREAD_BLURRED = 0.004  # of 24,000 true pictures after a 3 x 3 mean and noise 0.05: 0.24 %


@pytest.fixture(scope="module")
def true_pictures():
    prompts = list(PROMPTS) * 100
    return draw_pictures(prompts, seeded(1)), prompts


def test_pictures_are_images_and_vary(true_pictures):
    images, prompts = true_pictures
    assert images.shape == (2400, 3, 16, 16)
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1
    assert torch.equal(images, draw_pictures(prompts, seeded(1)))
    assert len(images.flatten(1).unique(dim=0)) == 2400


def test_coverage_is_the_shapes_area():
    """Antialiased: the sum over pixels is the area, to one point of 16 for each along the rim."""
    areas = {"square": 4, "circle": math.pi, "triangle": 2, "cross": 4 * 0.66 - 0.66**2}
    for name, area in areas.items():
        radius = torch.tensor([0.31, 0.27])
        found = shapes._coverage([name, name], torch.tensor([[0.5, 0.5], [0.47, 0.52]]), radius, 64)
        rim = 8 * radius * 64 * shapes.SUPERSAMPLE / shapes.SUPERSAMPLE**2
        assert ((found.sum((1, 2)) - area * (64 * radius) ** 2).abs() < rim).all(), name


def test_verifier_reads_true_pictures(true_pictures):
    images, prompts = true_pictures
    assert at_most(int((~right(images, prompts)).sum()), 2400, MISREAD_TRUE)
    assert not at_most(24, 2400, MISREAD_TRUE)  # 1 % misread would be seen
    assert torch.equal(verify_shapes(images, prompts), torch.ones(2400, dtype=torch.float64))


def test_verifier_reads_blurred_and_larger_pictures(true_pictures):
    images, prompts = true_pictures
    blurred = avg_pool2d(pad(images, (1, 1, 1, 1), "replicate"), 3, 1)
    noisy = (blurred + 0.05 * torch.randn(blurred.shape, generator=seeded(2))).clamp(0, 1)
    assert at_most(int((~right(noisy, prompts)).sum()), 2400, MISREAD_BLURRED)
    assert not at_most(48, 2400, MISREAD_BLURRED)  # 2 % would be seen
    large = draw_pictures(prompts[:240], seeded(3), size=64)
    assert bool(right(large, prompts[:240]).all())
    assert bool(right(large.to(torch.bfloat16), prompts[:240]).all())


@pytest.mark.parametrize("wrong", ["colour", "shape", "both"])
def test_verifier_rejects_wrong_captions(true_pictures, wrong):
    images, prompts = true_pictures
    named = [shapes.parse_prompt(prompt) for prompt in prompts]
    colours, forms = list(COLOURS), list(SHAPES)
    for i, (colour, shape) in enumerate(named):
        if wrong != "shape":
            colour = colours[(colours.index(colour) + 1 + i // 24 % 5) % 6]
        if wrong != "colour":
            shape = forms[(forms.index(shape) + 1 + i // 24 % 3) % 4]
        named[i] = (colour, shape)
    verdict = verify(images, [f"{c} {s}" for c, s in named])
    accepted = verdict.colour_ok & verdict.shape_ok
    assert at_most(int(accepted.sum()), 2400, MISREAD_TRUE)
    assert verdict.colour_ok.all() == (wrong == "shape")
    assert verdict.shape_ok.all() == (wrong == "colour")
    assert verdict.score[~accepted].max() < 1
    # One part right: at least its half.
    assert wrong == "both" or verdict.score.min() >= 0.5


def test_swapped_colours_are_seen(monkeypatch):
    """Mutant: the painter takes red for blue and blue for red."""
    swapped = COLOURS | {"red": COLOURS["blue"], "blue": COLOURS["red"]}
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "COLOURS", swapped)
        images = draw_pictures(list(PROMPTS) * 5, seeded(4))
    touched = torch.tensor([c in ("red", "blue") for c, _ in CAPTIONS] * 5)
    assert torch.equal(right(images, list(PROMPTS) * 5), ~touched)


def test_nothing_to_see_scores_nothing():
    grey = torch.full((1, 3, 16, 16), 0.5)
    assert verify_shapes(grey, ["a red square"]).item() == 0
    noise = torch.rand(240, 3, 16, 16, generator=seeded(5))
    assert at_most(int(right(noise, list(PROMPTS) * 10).sum()), 240, MISREAD_TRUE)
    assert verify_shapes(torch.zeros(0, 3, 16, 16), []).shape == (0,)


@pytest.mark.parametrize(
    ("images", "prompts", "error", "words"),
    [
        (torch.zeros(1, 3, 16, 16), ["a red house"], ValueError, "a red house"),
        (torch.zeros(1, 3, 16, 16), ["a square"], ValueError, "no known colour"),
        (torch.zeros(1, 3, 16, 16), ["a red or blue square"], ValueError, "several colours"),
        (torch.zeros(1, 3, 16, 16), [3], ValueError, "got 3"),
        (torch.zeros(2, 3, 16, 16), ["a red square"], ValueError, "got 1 for 2 pictures"),
        (torch.zeros(1, 1, 16, 16), ["a red square"], ValueError, "(1, 1, 16, 16)"),
        (torch.full((1, 3, 16, 16), 1.5), ["a red square"], ValueError, "[1.5, 1.5]"),
        (torch.full((1, 3, 16, 16), math.nan), ["a red square"], ValueError, "nan"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), ["a red square"], ValueError, "uint8"),
    ],
)
def test_verifier_bad_input(images, prompts, error, words):
    with pytest.raises(error) as caught:
        verify(images, prompts)
    assert words in str(caught.value)


def test_drawing_bad_input():
    with pytest.raises(ValueError, match=r"size must be .* got 4"):
        draw_pictures(["a red square"], seeded(), size=4)
