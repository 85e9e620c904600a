"""Rewards of pictures against independent computations; the contract; what bad ones are told."""

from __future__ import annotations

import io
import math
import textwrap

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from scaleup.builtin.shapes import draw_pictures
from scaleup.features import ClipFeatures, Statistics, parse_features
from scaleup.rewards.clip_score import MEAN, STD, load_clip, prepare
from scaleup.rewards.contract import (
    Reward,
    Weighted,
    check_images,
    checked,
    enlarge,
    parse_reward,
    rewards,
    to_uint8,
)
from scaleup.rewards.contract.registry import reward_from_file
from tests.scaleup import tiny
from theory.tolerances import ALGEBRA, FLOAT32, QUADRATURE

PROMPTS = ["a red square", "a cyan cross", "a red square"]
# 8-bit steps: what Pillow's answers are rounded to.
BYTE = 0.5 / 255


def pictures(n=3, height=16, width=20, seed=0):
    """Asymmetric colours: means near 0.7, 0.5, 0.2."""
    noise = torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return (noise * torch.tensor([1.4, 1.0, 0.4])[:, None, None]).clamp(0, 1).double()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of two layers with random weights, saved as CLIP is."""
    folder = tmp_path_factory.mktemp("clip")
    words = tiny.tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    text = {"vocab_size": len(words), "max_position_embeddings": tiny.LENGTH,
            "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config=shape | text,
        vision_config=shape | {"image_size": 24, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def found(name, clip_folder):
    return parse_reward(f"clip_score:model={clip_folder},chunk=2" if name == "clip_score" else name)


# --- each reward by another route


def test_redness_is_a_sum_over_pixels():
    images = pictures()
    by_hand = [
        np.mean([[p[0] - 0.5 * p[1] - 0.5 * p[2] for p in row] for row in np.moveaxis(i, 0, -1)])
        for i in images.numpy()
    ]
    values = parse_reward("redness")(images, PROMPTS)
    assert ALGEBRA.holds(values, by_hand)
    for mutant in (-values, images[:, 0].mean((1, 2)), images.mean((1, 2, 3))):
        assert not ALGEBRA.holds(mutant, by_hand)


def test_brightness_is_pillows_luma():
    images = to_uint8(pictures()).double() / 255
    by_pillow = [
        np.asarray(Image.fromarray(np.moveaxis(i, 0, -1)).convert("L"), dtype=float).mean() / 255
        for i in to_uint8(images).numpy()
    ]
    values = parse_reward("brightness")(images, PROMPTS).numpy()
    assert np.abs(values - by_pillow).max() <= BYTE
    for mutant in (images.mean((1, 2, 3)).numpy(), values[::-1] + 2 * BYTE):
        assert np.abs(mutant - by_pillow).max() > BYTE


def bytes_of(picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **options)
    return len(buffer.getvalue())


@pytest.mark.parametrize(("quality", "least"), [(95, 64), (40, 20)])
def test_jpeg_size_is_pillows_file(quality, least):
    images = pictures(height=16, width=20)
    text = f"quality={quality},least={least}"
    times = math.ceil(least / 16)
    side = (20 * times, 16 * times)
    grey = bytes_of(Image.new("RGB", side, (128, 128, 128)), quality=quality)
    large = [
        Image.fromarray(np.moveaxis(np.round(255 * i), 0, -1).astype(np.uint8)).resize(
            side, Image.Resampling.NEAREST
        )
        for i in images.numpy()
    ]
    by_hand = [(bytes_of(p, quality=quality) - grey) / 1000 for p in large]
    for name, sign in (("jpeg_size", 1), ("incompressibility", 1), ("compressibility", -1)):
        values = parse_reward(f"{name}:{text}")(images, PROMPTS)
        assert values.tolist() == [sign * v for v in by_hand]
    mutants = {
        "header kept": [bytes_of(p, quality=quality) / 1000 for p in large],
        "another quality": [(bytes_of(p, quality=75) - grey) / 1000 for p in large],
        "smoothed": [(bytes_of(p.resize((20, 16)), quality=quality) - grey) / 1000 for p in large],
    }
    assert all(v != by_hand for v in mutants.values())


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 90), (128, 128, 128)])
def test_no_constant_picture_takes_fewer_bytes_than_grey(colour):
    flat = torch.tensor(colour)[None, :, None, None].expand(1, 3, 16, 16) / 255
    size = parse_reward("jpeg_size")(flat, ["x"])
    assert 0 <= size < parse_reward("jpeg_size")(pictures(1), ["x"]) / 10


def test_shapes_is_the_verifier():
    prompts = ["a red square", "a green circle", "a cyan cross"]
    images = draw_pictures(prompts, torch.Generator().manual_seed(0))
    reward = checked(parse_reward("shapes"))
    assert reward(images, prompts).tolist() == [1, 1, 1]
    assert reward(images, [*prompts[1:], prompts[0]]).max() < 1


def test_clip_score_by_transformers_and_pillow(clip_folder):
    """The whole way by Pillow's resize and the model's own logits."""
    # Far from 0 and 1, where Pillow cuts between its two passes and torch after both.
    images = to_uint8(0.3 + 0.4 * pictures(height=40, width=50)).double() / 255
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    words = transformers.CLIPTokenizer.from_pretrained(clip_folder)(
        PROMPTS, padding=True, return_tensors="pt"
    )
    rows = []
    for image in to_uint8(images).numpy():
        small = Image.fromarray(np.moveaxis(image, 0, -1)).resize(
            (30, 24), Image.Resampling.BICUBIC
        )
        cut = np.asarray(small.crop((3, 0, 27, 24)), dtype=np.float32) / 255
        rows.append(np.moveaxis((cut - np.array(MEAN)) / np.array(STD), -1, 0))
    pixels = torch.tensor(np.stack(rows), dtype=torch.float32)
    # Pillow rounds to bytes between its passes, and after.
    seen = prepare(images.float(), 24)
    steps = (seen - pixels).abs() * torch.tensor(STD)[:, None, None]
    assert float(steps.max()) <= 4 * BYTE
    assert float((seen.flip(-1) - pixels).abs().max()) > 4 * BYTE  # mutant: mirrored
    with torch.no_grad():
        logits = model(pixel_values=seen, **words).logits_per_image / model.logit_scale.exp()
    values = parse_reward(f"clip_score:model={clip_folder},chunk=2")(images, PROMPTS)
    assert FLOAT32.holds(values, 100 * logits.diagonal().double(), scale=1.0)
    assert not FLOAT32.holds(values, 100 * logits[:, 0].double(), scale=1.0)  # mutant: one prompt
    one_by_one = torch.cat([found("clip_score", clip_folder)(i[None], [p])
                            for i, p in zip(images, PROMPTS, strict=True)])  # fmt: skip
    assert FLOAT32.holds(values, one_by_one, scale=1.0)


@pytest.mark.parametrize("name", ["redness", "brightness", "clip_score"])
def test_gradients_are_those_of_finite_differences(name, clip_folder):
    reward = checked(found(name, clip_folder))
    assert reward.differentiable
    images = (0.25 + pictures(height=24, width=24) / 2).requires_grad_()
    (slope,) = torch.autograd.grad(reward(images, PROMPTS).sum(), images)
    ways = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).double()

    def value(x):
        if name != "clip_score":
            return reward(x, PROMPTS)
        # Differences of float32 drown in rounding: the same model in float64.
        clip = load_clip(clip_folder)
        features = clip.model.get_image_features(pixel_values=prepare(x, 24)).pooler_output
        texts = clip.of_texts(PROMPTS, images.device)
        return 100 * (torch.nn.functional.normalize(features, dim=1) * texts).sum(1)

    step = 1e-4
    model = load_clip(clip_folder).model.double()
    with torch.no_grad():
        moved = (value(images + step * ways) - value(images - step * ways)) / (2 * step)
    model.float()
    expected = (slope * ways).sum((1, 2, 3))
    tier = FLOAT32 if name == "clip_score" else QUADRATURE
    assert tier.holds(expected, moved, scale=float(slope.norm()))
    assert not tier.holds(-expected, moved, scale=float(slope.norm()))


def test_every_reward_keeps_the_contract(clip_folder):
    images = draw_pictures(PROMPTS, torch.Generator().manual_seed(0)).float()
    assert {"brightness", "clip_score", "compressibility", "jpeg_size", "redness", "shapes"} <= set(
        rewards()
    )
    for name in rewards():
        reward = checked(found(name, clip_folder))
        values = reward(images, PROMPTS)
        assert values.shape == (3,)
        assert torch.equal(values, reward(images, PROMPTS))
        assert reward.summary
        assert parse_reward(reward.label) == reward.inner
        order = torch.tensor([2, 0, 1])
        turned = reward(images[order], [PROMPTS[i] for i in order])
        assert FLOAT32.holds(turned, values[order], scale=1.0)
        assert checked(reward) is reward
        assert reward(images[:0], []).shape == (0,)


# --- sums, options, files of one's own


def test_a_weighted_sum():
    images = pictures()
    reward = parse_reward("0.7*redness + -0.3*brightness")
    parts = checked(reward).parts(images, PROMPTS)
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
    values = checked(parse_reward(f"{path}:strength=2"))(images, PROMPTS)
    assert ALGEBRA.holds(values, 2 * images[:, 1].mean((1, 2)))
    both = parse_reward(f"0.5*{path}+redness")
    assert isinstance(both, Weighted)
    with pytest.raises(ValueError, match="strength of reward 'greenness' = 'much'"):
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
        reward_from_file(path)


@pytest.mark.parametrize(
    ("text", "needle"),
    [
        ("rednes", "allowed are brightness"),
        ("", "allowed are brightness"),
        ("redness:size=3", "option 'size' of reward 'redness': allowed are none"),
        ("jpeg_size:quality=99", "quality = 99: allowed are whole numbers from 1 to 95"),
        ("jpeg_size:quality=x", "allowed are whole numbers"),
        ("jpeg_size:quality", "allowed is option=value"),
        ("jpeg_size:least=8,least=9", "given twice"),
        ("much*redness", "weight 'much'"),
        ("nan*redness", "allowed are finite numbers"),
        ("0*redness", "other than 0"),
        ("redness+redness", "given twice"),
        ("clip_score", "model"),
    ],
)
def test_bad_texts_are_told_what_is_allowed(text, needle):
    with pytest.raises(ValueError, match=needle):
        parse_reward(text)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.py"):
        parse_reward(f"{tmp_path}/none.py")
    with pytest.raises(ValueError, match=r"no config\.json"):
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
        (GOOD[:2], r"shape \(2,\) for 3 pictures: allowed is one value a picture, \(3,\)"),
        (GOOD[:, None], r"shape \(3, 1\)"),
        (GOOD.mean(), r"shape \(\)"),
        (GOOD.float(), "dtype torch.float32: allowed is torch.float64"),
        ([0.0, 0.5, 1.0], "a list: allowed is a torch.Tensor"),
        (GOOD * torch.tensor([1, math.nan, 1]), "nan for picture 1, prompt 'a cyan cross'"),
        (GOOD + torch.tensor([0, math.inf, math.inf]), "inf for picture 1.* at 1 more"),
        (GOOD + 0.5, r"1.5 for picture 2, prompt 'a red square': .*bounds \[0, 1\]"),
    ],
)
def test_a_wrong_answer_is_named(answer, needle):
    with pytest.raises(ValueError, match=f"reward 'odd' returned .*{needle}"):
        checked(Odd(answer))(pictures(), PROMPTS)
    with pytest.raises(ValueError, match=needle):
        checked(Odd(answer)).parts(pictures(), PROMPTS)


def test_a_right_answer_and_a_detached_one():
    assert checked(Odd(GOOD))(pictures(), PROMPTS) is GOOD
    images = pictures().requires_grad_()
    with pytest.raises(ValueError, match="without a gradient"):
        checked(Odd(GOOD, differentiable=True))(images, PROMPTS)
    with torch.no_grad():
        assert checked(Odd(GOOD, differentiable=True))(images, PROMPTS) is GOOD


@pytest.mark.parametrize(
    ("images", "prompts", "kind", "needle"),
    [
        (pictures()[0], PROMPTS, ValueError, r"allowed is \(n, 3, h, w\)"),
        (pictures()[:, :2], PROMPTS, ValueError, r"allowed is \(n, 3, h, w\)"),
        (to_uint8(pictures()), PROMPTS, ValueError, "divide bytes by 255"),
        (2 * pictures() - 1, PROMPTS, ValueError, r"allowed is \[0, 1\]"),
        (pictures() * math.nan, PROMPTS, ValueError, r"allowed is \[0, 1\]"),
        (pictures(), PROMPTS[:2], ValueError, "prompts has 2 texts, images has 3"),
        (pictures(), "red", TypeError, "sequence of texts"),
        (pictures().numpy(), PROMPTS, TypeError, r"torch\.Tensor"),
    ],
)
def test_bad_pictures(images, prompts, kind, needle):
    with pytest.raises(kind, match=needle):
        checked(parse_reward("redness"))(images, prompts)


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


# --- features


def test_statistics_by_hand():
    images = pictures(height=16, width=16)
    rows = []
    for image in images.numpy():
        r, g, b = image
        light, opponent, third = (r + g + b) / 3**0.5, (r - b) / 2**0.5, (r - 2 * g + b) / 6**0.5
        row = [light[i : i + 4, j : j + 4].mean() for i in range(0, 16, 4) for j in range(0, 16, 4)]
        row += [c[i : i + 8, j : j + 8].mean() for c in (opponent, third) for i in (0, 8)
                for j in (0, 8)]  # fmt: skip
        row += [c.std() for c in (light, opponent, third)]
        for scale in (light, light.reshape(8, 2, 8, 2).mean((1, 3))):
            x, y = np.diff(scale, axis=1)[:-1], np.diff(scale, axis=0)[:, :-1]
            row += [np.abs(v).mean() for v in (x, y, (x + y) / 2**0.5, (x - y) / 2**0.5)]
        rows.append(row)
    values = Statistics()(images)
    assert values.dtype == torch.float32
    assert values.shape == (3, Statistics.dim)
    assert FLOAT32.holds(values, rows, scale=1.0)
    assert not FLOAT32.holds(Statistics()(images.flip(-1)), rows, scale=1.0)
    assert not FLOAT32.holds(Statistics()(images.flip(1)), rows, scale=1.0)


def test_clip_features_are_those_of_the_score(clip_folder):
    features = parse_features(f"clip:model={clip_folder}")
    values = features(pictures())
    assert values.shape == (3, features.dim)
    assert FLOAT32.holds(values.norm(dim=1), torch.ones(3))
    texts = load_clip(clip_folder).of_texts(PROMPTS, values.device)
    score = found("clip_score", clip_folder)(pictures(), PROMPTS)
    assert FLOAT32.holds(100 * (values * texts).sum(1), score, scale=1.0)
    assert features(pictures()[:0]).shape == (0, features.dim)


def test_bad_features():
    assert parse_features("statistics") == Statistics()
    for text in ("clip", "clip:model=", "inception"):
        with pytest.raises(ValueError, match="allowed are 'statistics' and"):
            parse_features(text)
    with pytest.raises(ValueError, match="at least 4"):
        Statistics()(pictures(height=3))
