"""The contract of rewards: sums, options, a user's own files; what bad ones are told."""

from __future__ import annotations

import math
import textwrap

import pytest
import torch

from scaleup.comparison.features import ClipFeatures
from scaleup.rewards.contract import (
    Reward,
    Weighted,
    check_images,
    enlarge,
    parse_reward,
    to_uint8,
)
from scaleup.rewards.contract.checked import Checked
from scaleup.rewards.contract.registry import REGISTRY
from tests.scaleup.rewards.test_rewards import PROMPTS, pictures
from theory.common.tolerances import ALGEBRA

# --- sums, options, a user's own files


def test_a_weighted_sum():
    images = pictures()
    reward = parse_reward("0.7*redness + -0.3*brightness")
    parts = Checked(reward).parts(images, PROMPTS)
    red, bright = (parse_reward(n)(images, PROMPTS) for n in ("redness", "brightness"))
    assert list(parts) == ["0.7*redness+-0.3*brightness", "redness", "brightness"]
    assert ALGEBRA.holds(parts[reward.label], 0.7 * red - 0.3 * bright)
    assert not ALGEBRA.holds(parts[reward.label], 0.7 * red + 0.3 * bright)
    assert ALGEBRA.holds(reward.bounds, (-1.0, 0.7))
    assert reward.differentiable
    assert not parse_reward("redness+jpeg_size").differentiable
    assert parse_reward("redness+jpeg_size").bounds == (-1, math.inf)
    assert parse_reward("1e+3*redness").weights == (1000.0,)
    assert parse_reward(reward.label) == reward


OWN = """
    from dataclasses import dataclass
    import torch
    from scaleup.rewards.contract import Reward, check_images

    @dataclass(frozen=True)
    class Greenness(Reward):
        strength: float = 1.0

        name = "greenness"
        differentiable = True

        def __call__(self, images, prompts):
            check_images(images, prompts)
            return self.strength * images[:, 1].to(torch.float64).mean((1, 2))
"""


def test_a_reward_of_ones_own(tmp_path):
    path = tmp_path / "greenness.py"
    path.write_text(textwrap.dedent(OWN))
    images = pictures()
    values = Checked(parse_reward(f"{path}:strength=2"))(images, PROMPTS)
    assert ALGEBRA.holds(values, 2 * images[:, 1].mean((1, 2)))
    both = parse_reward(f"0.5*{path}+redness")
    assert isinstance(both, Weighted)
    with pytest.raises(ValueError, match="of reward 'greenness' must be a number, got 'much'"):
        parse_reward(f"{path}:strength=much")


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (("def __call__", "def call"), "lacks __call__"),
        (('name = "greenness"', ""), "lacks name"),
        (('name = "greenness"', "name = 3"), "lacks name"),
        (("@dataclass(frozen=True)", ""), "frozen dataclass"),
        (("(Reward)", ""), "exactly one"),
        (("import torch", "import no_such_module"), "cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_file_that_is_no_reward(change, needle, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(OWN).replace(*change))
    with pytest.raises(ValueError, match=needle):
        REGISTRY.find(str(path))


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("rednes", "reward must be one of brightness, "),
        ("", "reward must be one of brightness, "),
        ("redness:size=3", "option of reward 'redness' must be none, got 'size'"),
        ("jpeg_size:quality=99", "quality must be a whole number from 1 to 95, got 99"),
        ("jpeg_size:quality=x", "quality of .* must be a whole number, got 'x'"),
        ("jpeg_size:quality", "must be option=value"),
        ("jpeg_size:least=8,least=9", "given twice"),
        ("much*redness", "number before the .*, got 'much'"),
        ("nan*redness", "must be a finite number, got nan"),
        ("0*redness", "other than 0"),
        ("redness+redness", "given once, got it twice"),
        ("clip_score", "model"),
    ],
)
def test_bad_texts_are_told_what_is_allowed(text, needle):
    with pytest.raises(ValueError, match=needle):
        parse_reward(text)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.py"):
        parse_reward(f"{tmp_path}/none.py")
    with pytest.raises(ValueError, match=r"without config\.json"):
        parse_reward(f"clip_score:model={tmp_path}")(pictures(), PROMPTS)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="cannot be loaded as CLIP"):
        ClipFeatures(str(tmp_path))(pictures())


# --- the checks


class Odd(Reward):
    """Returns what it is given."""

    name = "odd"
    bounds = (0.0, 1.0)

    def __init__(self, answer, differentiable=False):
        self.answer, self.slope = answer, differentiable

    @property
    def differentiable(self):
        return self.slope

    def __call__(self, images, prompts):
        return self.answer


GOOD = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("answer", "needle"),
    [
        (GOOD[:2], r"one value a picture, \(3,\), got shape \(2,\)"),
        (GOOD[:, None], r"shape \(3, 1\)"),
        (GOOD.mean(), r"shape \(\)"),
        (GOOD.float(), "torch.float64 .* got torch.float32"),
        ([0.0, 0.5, 1.0], "a torch.Tensor .* got a list"),
        (GOOD * torch.tensor([1, math.nan, 1]), "nan for picture 1, prompt 'a cyan cross'"),
        (GOOD + torch.tensor([0, math.inf, math.inf]), "inf for picture 1.* at 1 more"),
        (GOOD + 0.5, r"bounds \[0, 1\], got 1.5 for picture 2, prompt 'a red square'"),
    ],
)
def test_a_wrong_answer_is_named(answer, needle):
    with pytest.raises(ValueError, match=f"reward 'odd' must return .*{needle}"):
        Checked(Odd(answer))(pictures(), PROMPTS)
    with pytest.raises(ValueError, match=needle):
        Checked(Odd(answer)).parts(pictures(), PROMPTS)


class Broken(Odd):
    """Raises what it is given."""

    def __call__(self, images, prompts):
        raise self.answer


def test_b4_a_reward_that_raises_is_named():
    for error, said in (
        (KeyError("eyes"), "KeyError: 'eyes'"),
        (ValueError("mine"), "ValueError: mine"),
        (PermissionError(13, "Permission denied", "a/model.pt"), "PermissionError: .*a/model.pt'"),
    ):
        with pytest.raises(ValueError, match=rf"reward 'odd' raised {said} \(.*py, line \d+\)"):
            Checked(Broken(error))(pictures(), PROMPTS)
    for passes in (MemoryError("much"), RuntimeError("CUDA out of memory")):
        with pytest.raises(type(passes), match=str(passes)):
            Checked(Broken(passes)).parts(pictures(), PROMPTS)


def test_a_right_answer_and_a_detached_one():
    assert Checked(Odd(GOOD))(pictures(), PROMPTS) is GOOD
    images = pictures().requires_grad_()
    with pytest.raises(ValueError, match="without a gradient"):
        Checked(Odd(GOOD, differentiable=True))(images, PROMPTS)
    with torch.no_grad():
        assert Checked(Odd(GOOD, differentiable=True))(images, PROMPTS) is GOOD


@pytest.mark.parametrize(
    ("images", "prompts", "kind", "needle"),
    [
        (pictures()[0], PROMPTS, ValueError, r"must have shape \(n, 3, h, w\)"),
        (pictures()[:, :2], PROMPTS, ValueError, r"must have shape \(n, 3, h, w\)"),
        (to_uint8(pictures()), PROMPTS, ValueError, "divide bytes by 255"),
        (2 * pictures() - 1, PROMPTS, ValueError, r"must have values in \[0, 1\]"),
        (pictures() * math.nan, PROMPTS, ValueError, r"must have values in \[0, 1\]"),
        (pictures(), PROMPTS[:2], ValueError, "one text a picture, got 2 for 3"),
        (pictures(), "red", TypeError, "sequence of texts"),
        (pictures().numpy(), PROMPTS, TypeError, r"torch\.Tensor"),
    ],
)
def test_bad_pictures(images, prompts, kind, needle):
    with pytest.raises(kind, match=needle):
        Checked(parse_reward("redness"))(images, prompts)


def test_conversions():
    levels = torch.arange(256) / 255
    square = levels.reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_uint8(square)[0, 0].flatten(), torch.arange(256, dtype=torch.uint8))
    half = to_uint8(square.half())[0, 0].flatten()
    assert torch.equal(half, torch.arange(256, dtype=torch.uint8))
    assert enlarge(square, 33).shape[-2:] == (48, 48)
    assert torch.equal(enlarge(square, 33)[..., 1::3, 2::3], square)
    assert enlarge(square, 16) is square
    check_images(square)
