"""Procedural pictures of coloured shapes, and the rule that says what a picture shows.

A picture is one shape of one colour on a dark to middling grey,

    image = background + coverage (colour - background),

`coverage` the share of each pixel that the shape fills (SUPERSAMPLE^2 points a pixel). Place, size,
colour and background are random: a caption ("a red square") leaves a whole law of pictures.

The verifier inverts that line. The background is the median of the border; the colour is the mean
of the pixels farthest from it; projecting on (colour - background) gives back the coverage. The
colour is the palette's nearest hue. The shape is the template (4 shapes, all sizes and places) that
correlates best with the coverage. The rule is our own, checked on the procedural pictures
themselves (tests/scaleup/builtin/test_pictures.py): of 24,000 none is misread and none passes for
another caption; 2 are misread after a 3 x 3 mean, 2.5 % after two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from scaleup.rewards.contract.images import check_images
from theory.common.checks import check_order

SIZE = 16
SUPERSAMPLE = 4
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "yellow": (0.90, 0.85, 0.10),
    "green": (0.10, 0.80, 0.15),
    "cyan": (0.10, 0.85, 0.90),
    "blue": (0.10, 0.25, 0.95),
    "purple": (0.75, 0.10, 0.90),
}
# Each shape as the points (u, v) it holds; |u|, |v| <= 1, v points down. Areas: 4, pi, 2, 2.2.
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square": lambda u, v: (u.abs() <= 1) & (v.abs() <= 1),
    "circle": lambda u, v: u**2 + v**2 <= 1,
    "triangle": lambda u, v: (v <= 1) & (2 * u.abs() <= v + 1),
    "cross": lambda u, v: (
        ((u.abs() <= 0.33) & (v.abs() <= 1)) | ((v.abs() <= 0.33) & (u.abs() <= 1))
    ),
}
CAPTIONS = [(colour, shape) for shape in SHAPES for colour in COLOURS]
PROMPTS = tuple(f"a {colour} {shape}" for colour, shape in CAPTIONS)

# Half the side of a square, and the half-width of the others, as shares of the picture's side. A
# square fills its box, so it is drawn smaller; otherwise area alone would give the shape away.
RADII = {"square": (0.22, 0.32), "circle": (0.26, 0.37), "triangle": (0.28, 0.40)}
RADII["cross"] = RADII["triangle"]
MARGIN = 0.04
OFFSET = 0.12  # how far a centre may lie from the picture's, if MARGIN leaves the room
COLOUR_JITTER = 0.08
GREYS = (0.05, 0.45)
TINT = 0.02

# What the verifier asks of a picture at SIZE x SIZE; true pictures lie far on the right side.
FOREGROUND_SHARE = 0.08  # the smallest triangle fills 0.16 of a picture
LEAST_CONTRAST = 0.15
LEAST_CHROMA = 0.15
LEAST_COSINE = 0.80
LEAST_CORRELATION = 0.70


class Verdict(NamedTuple):
    """What n pictures show: colour_ok (n,) bool, shape_ok (n,) bool, score (n,) float64."""

    colour_ok: Tensor
    shape_ok: Tensor
    score: Tensor


def parse_prompt(prompt: str) -> tuple[str, str]:
    """The colour and the shape that a prompt names.

    Raises:
        ValueError: none, or more than one, of the known colours or shapes is named.
    """
    words = re.findall(r"[a-z]+", prompt.lower()) if isinstance(prompt, str) else []
    found = []
    for kind, known in (("colour", list(COLOURS)), ("shape", list(SHAPES))):
        named = sorted(set(words) & set(known))
        if len(named) != 1:
            what = f"no known {kind}" if not named else f"several {kind}s ({', '.join(named)})"
            raise ValueError(f"prompt must name one of {known}, got {prompt!r}, {what}")
        found += named
    return found[0], found[1]


# --- pictures


def draw_pictures(prompts: Sequence[str], generator: torch.Generator, size: int = SIZE) -> Tensor:
    """A random picture for each prompt: float32 (n, 3, size, size) in [0, 1].

    Raises:
        ValueError: a prompt that names no known colour and shape, size < 8.
    """
    check_order("size", size, 8)
    named = [parse_prompt(prompt) for prompt in prompts]
    if not named:
        return torch.zeros(0, 3, size, size)
    draws = torch.rand(len(named), 11, generator=generator)
    least, most = torch.tensor([RADII[shape] for _, shape in named]).unbind(1)
    radius = least + (most - least) * draws[:, 0]
    room = (0.5 - MARGIN - radius).clamp(max=OFFSET)[:, None]
    centre = 0.5 + room * (2 * draws[:, 1:3] - 1)
    palette = torch.tensor([COLOURS[colour] for colour, _ in named])
    colour = (palette + COLOUR_JITTER * (2 * draws[:, 3:6] - 1)).clamp(0, 1)
    grey = GREYS[0] + (GREYS[1] - GREYS[0]) * draws[:, 6:7]
    background = grey + TINT * (2 * draws[:, 7:10] - 1)
    coverage = _coverage([shape for _, shape in named], centre, radius, size)[:, None]
    background, colour = background[..., None, None], colour[..., None, None]
    return background + coverage * (colour - background)


def random_prompts(n: int, generator: torch.Generator) -> list[str]:
    """n captions, uniform over PROMPTS."""
    return [PROMPTS[i] for i in torch.randint(len(PROMPTS), (n,), generator=generator)]


def _coverage(shapes: Sequence[str], centre: Tensor, radius: Tensor, size: int) -> Tensor:
    """Share of each pixel that the shape fills (n, size, size); centre (n, 2): (x, y) in [0, 1]."""
    fine = size * SUPERSAMPLE
    at = (torch.arange(fine, dtype=centre.dtype) + 0.5) / fine
    u = ((at - centre[:, :1]) / radius[:, None])[:, None, :]
    v = ((at - centre[:, 1:]) / radius[:, None])[:, :, None]
    filled = torch.empty(len(shapes), fine, fine, dtype=torch.bool)
    for name, holds in SHAPES.items():
        rows = torch.tensor([shape == name for shape in shapes])
        filled[rows] = holds(u[rows], v[rows])
    return filled.view(-1, size, SUPERSAMPLE, size, SUPERSAMPLE).to(centre.dtype).mean((2, 4))


# --- the verifier


def verify(images: Tensor, prompts: Sequence[str]) -> Verdict:
    """Whether each picture shows what its prompt names.

    images: (n, 3, h, w) in [0, 1], any float dtype; other sizes than SIZE are averaged down (or
    interpolated up) first. A part that is right counts 1/2, a wrong one half of how far it agrees:

        score = (c + s) / 2,   c = 1 or max(0, cos)/2,   s = 1 or max(0, correlation)/2

    with the cosine between the found and the named colour's chroma (colour less its mean), and the
    correlation of the found coverage with the best template of the named shape. Both right: 1.

    Raises:
        ValueError, TypeError: as `check_images`; a prompt that names no known colour and shape.
    """
    named = [parse_prompt(prompt) for prompt in prompts]
    check_images(images, prompts)
    if not named:
        none = torch.zeros(0, dtype=torch.bool)
        return Verdict(none, none, torch.zeros(0, dtype=torch.float64))
    colour, coverage, visible = _separate(_resize(images.detach().to("cpu", torch.float64)))

    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float64)
    chroma = colour - colour.mean(1, keepdim=True)
    cosine = _unit(chroma) @ _unit(palette - palette.mean(1, keepdim=True)).T
    vivid = visible & (chroma.norm(dim=1) >= LEAST_CHROMA)
    wanted = torch.tensor([list(COLOURS).index(name) for name, _ in named])
    colour_ok, colour_part = _decide(cosine, wanted, LEAST_COSINE, vivid)

    correlation = _correlations(coverage)
    wanted = torch.tensor([list(SHAPES).index(name) for _, name in named])
    shape_ok, shape_part = _decide(correlation, wanted, LEAST_CORRELATION, visible)
    return Verdict(colour_ok, shape_ok, 0.5 * (colour_part + shape_part))


def verify_shapes(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """The score of `verify` alone: (n,) float64 in [0, 1], 1 where colour and shape are right."""
    return verify(images, prompts).score


def _decide(scores: Tensor, wanted: Tensor, least: float, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Right: the named option is the best one, and good enough. The part: 1, or half the score."""
    named = scores.gather(1, wanted[:, None])[:, 0]
    right = seen & (scores.argmax(1) == wanted) & (named >= least)
    partial = torch.where(seen, named.clamp(0, 1) / 2, torch.zeros_like(named))
    return right, torch.where(right, torch.ones_like(named), partial)


def _separate(small: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Foreground colour (n, 3), coverage (n, SIZE, SIZE), whether there is a foreground (n,)."""
    rim = torch.cat([small[:, :, 0], small[:, :, -1], small[:, :, :, 0], small[:, :, :, -1]], -1)
    background = rim.median(-1).values
    away = small - background[..., None, None]
    farthest = away.square().sum(1).flatten(1).topk(math.ceil(FOREGROUND_SHARE * SIZE**2)).indices
    pixels = away.flatten(2).gather(2, farthest[:, None].expand(-1, 3, -1))
    contrast = pixels.mean(-1)
    size = contrast.square().sum(1)
    safe = size.clamp_min(torch.finfo(size.dtype).tiny)[:, None, None]
    coverage = ((away * contrast[..., None, None]).sum(1) / safe).clamp(0, 1)
    return background + contrast, coverage, size.sqrt() >= LEAST_CONTRAST


@lru_cache(maxsize=1)
def _templates() -> tuple[Tensor, Tensor]:
    """Centred, normalised coverages (m, SIZE^2) of all shapes, sizes and places; whose they are."""
    rows, owner = [], []
    for index, shape in enumerate(SHAPES):
        least, most = (SIZE * bound for bound in RADII[shape])
        for radius in torch.linspace(least, most, 5, dtype=torch.float64):
            at = torch.arange(float(radius), SIZE - float(radius) + 0.01, 0.5, dtype=torch.float64)
            centre = torch.cartesian_prod(at, at) / SIZE
            radii = (radius / SIZE).expand(len(centre))
            rows.append(_coverage([shape] * len(centre), centre, radii, SIZE).flatten(1))
            owner.append(torch.full((len(centre),), index))
    maps = torch.cat(rows)
    return _unit(maps - maps.mean(1, keepdim=True)), torch.cat(owner)


def _correlations(coverage: Tensor) -> Tensor:
    """Best correlation of each coverage with a template of each shape (n, 4)."""
    templates, owner = _templates()
    flat = coverage.flatten(1)
    every = _unit(flat - flat.mean(1, keepdim=True)) @ templates.T
    return torch.stack([every[:, owner == i].amax(1) for i in range(len(SHAPES))], 1)


def _unit(rows: Tensor) -> Tensor:
    """Rows at length 1; a zero row stays zero."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _resize(images: Tensor) -> Tensor:
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    if min(images.shape[-2:]) >= SIZE:
        return interpolate(images, (SIZE, SIZE), mode="area")
    return interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)
