"""Rewards and features of pictures against independent computations."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from scaleup.builtin.shapes import draw_pictures
from scaleup.comparison.features import Statistics, parse_features
from scaleup.rewards.clip_score import MEAN, STD, load_clip, prepare
from scaleup.rewards.contract import (
    parse_reward,
    rewards,
    to_uint8,
)
from scaleup.rewards.contract.checked import Checked
from tests.scaleup import tiny
from theory.common.tolerances import ALGEBRA, FLOAT32, QUADRATURE

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
    reward = Checked(parse_reward("shapes"))
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
    reward = Checked(found(name, clip_folder))
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
        reward = Checked(found(name, clip_folder))
        values = reward(images, PROMPTS)
        assert values.shape == (3,)
        assert torch.equal(values, reward(images, PROMPTS))
        assert reward.summary
        assert parse_reward(reward.label) == reward.inner
        order = torch.tensor([2, 0, 1])
        turned = reward(images[order], [PROMPTS[i] for i in order])
        assert FLOAT32.holds(turned, values[order], scale=1.0)
        assert reward(images[:0], []).shape == (0,)


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
        with pytest.raises(ValueError, match="features must be 'statistics' or"):
            parse_features(text)
    with pytest.raises(ValueError, match="at least 4"):
        Statistics()(pictures(height=3))
