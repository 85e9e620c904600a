"""The adapter against diffusers' own schedulers and pipelines, on tiny pipelines."""

from __future__ import annotations

import inspect
from itertools import pairwise

import diffusers
import pytest
import torch

from scaleup.adapter import Guided, ImageModel, NetworkVelocity, Prompts, VPClock, sample
from tests.helpers import size
from tests.scaleup import tiny
from tests.scaleup.planted import DOUBLE, NO_PROMPTS, knots
from theory.common.tolerances import ALGEBRA, FLOAT32

KINDS = {"epsilon": "eps", "v_prediction": "v"}
TEXTS = ("a red square", "two blue circles")
PIPES = {
    "eps": tiny.sd15,
    "v": lambda: tiny.sd15("v_prediction"),
    "pixel": lambda: tiny.sd15(pixel=True),
    "sd3": tiny.sd3,
}


@pytest.fixture(scope="module", params=PIPES)
def image_model(request):
    return ImageModel(PIPES[request.param]())


def noise(shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- steps


def euler(clock, output, z, t, after):
    """One Euler step in rectified-flow coordinates, from and to the network's own scaling."""
    y = z / clock.total(t)
    v = clock.velocity(output, y, t.expand(len(z)))
    return clock.total(after) * (y + (after - t) * v)


@pytest.mark.parametrize("last", [True, False], ids=["ends at 1", "ends at step 0"])
@pytest.mark.parametrize("prediction", KINDS)
def test_a_ddim_step_is_an_euler_step(prediction, last):
    """Every step of DDIM from z to z' is b' (y + (t' - t) v), y = z/b, whatever v is."""
    options = tiny.SD15_SCHEDULE | {"set_alpha_to_one": last}
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, **options)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    if not last:
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    clock = VPClock(scheduler.alphas_cumprod, KINDS[prediction])
    scheduler.set_timesteps(50)
    z, output = noise((2, 4, 2, 2), 1, DOUBLE), noise((2, 4, 2, 2), 2, DOUBLE)
    for step in scheduler.timesteps.tolist():
        expected = scheduler.step(output, step, z).prev_sample
        before, table = step - 1000 // 50, knots()
        ends = [table[step], table[before] if before >= 0 else (1.0 if last else table[0])]
        t, after = torch.tensor(ends, dtype=DOUBLE)
        assert ALGEBRA.holds(euler(clock, output, z, t, after), expected, size(expected))
        early = torch.tensor(table[step - 1], dtype=DOUBLE)
        assert not FLOAT32.holds(euler(clock, output, z, early, after), expected, size(expected))


def test_a_flow_matching_step_is_an_euler_step():
    """x + (sigma' - sigma) output = x + (t' - t) v with t = 1 - sigma, v = -output."""
    pipe = tiny.sd3()
    clock = ImageModel(pipe).clock
    pipe.scheduler.set_timesteps(20)
    x, output = noise((2, 4, 2, 2), 1), noise((2, 4, 2, 2), 2)
    for step, (sigma, after) in zip(
        pipe.scheduler.timesteps, pairwise(pipe.scheduler.sigmas), strict=True
    ):
        expected = pipe.scheduler.step(output, step, x).prev_sample
        t = (1 - sigma).expand(2)
        point, timestep = clock.inputs(x, t)
        assert FLOAT32.holds(timestep, step.expand(2))
        found = point + (sigma - after) * clock.velocity(output, point, t)
        assert FLOAT32.holds(found, expected, size(expected))


@pytest.mark.parametrize("name", ["DDPM", "PNDM", "EulerDiscrete", "DPMSolverMultistep"])
def test_the_scheduler_that_a_pipeline_samples_with_does_not_matter(name):
    kind = getattr(diffusers, f"{name}Scheduler")
    known = inspect.signature(kind).parameters
    scheduler = kind(**{k: v for k, v in tiny.SD15_SCHEDULE.items() if k in known})
    model = ImageModel(tiny.sd15(scheduler=scheduler))
    assert torch.equal(model.times, ImageModel(tiny.sd15()).times)


# --- whole pipelines


@pytest.mark.parametrize("weight", [1.0, 4.0])
@pytest.mark.parametrize("name", ["eps", "v", "sd3"])
def test_a_pipelines_samples_are_the_adapters(name, weight):
    """The pipeline's own call (prompts, guidance, scheduler, decoder) against ours."""
    pipe = PIPES[name]()
    pipe.set_progress_bar_config(disable=True)
    if name == "sd3":
        model = ImageModel(pipe)
        pipe.scheduler.set_timesteps(4)
        times = (1 - pipe.scheduler.sigmas.double()).tolist()
    else:
        options = tiny.SD15_SCHEDULE | {"set_alpha_to_one": True}
        pipe.scheduler = diffusers.DDIMScheduler(
            prediction_type=pipe.scheduler.config.prediction_type, **options
        )
        model = ImageModel(pipe)
        pipe.scheduler.set_timesteps(4)
        times = [*knots()[pipe.scheduler.timesteps].tolist(), 1.0]
    start = noise((2, *model.event_shape))
    call = {"num_inference_steps": 4, "guidance_scale": weight, "latents": start.clone()}
    size_of_picture = dict(zip(("height", "width"), tiny.PICTURE[1:], strict=True))
    latents, pictures = (
        pipe(list(TEXTS), output_type=kind, **call, **size_of_picture, return_dict=False)[0]
        for kind in ("latent", "pt")
    )
    guided = Guided(model.velocity(model.prompts(TEXTS)), weight)
    x = start if name == "sd3" else start / model.clock.total(torch.tensor(times[0]))
    for t, after in pairwise(times):
        with torch.no_grad():
            x = x + (after - t) * guided(x, t, torch.tensor([1, 2]))
    assert FLOAT32.holds(x, latents, size(latents))
    assert FLOAT32.holds(model.decode(x).detach(), pictures, 1.0)
    if weight > 1:  # and the prompts were told apart
        other = Guided(model.velocity(model.prompts(TEXTS[::-1])), weight)
        with torch.no_grad():
            wrong, right = (m(start, times[1], torch.tensor([1, 2])) for m in (other, guided))
        assert not FLOAT32.holds(wrong, right, size(right))


def test_prompts_are_the_pipelines_embeddings(image_model):
    """Index 0 is the empty prompt."""
    prompts = image_model.prompts(TEXTS)
    assert prompts.texts == ("", *TEXTS)
    for i, text in enumerate(prompts.texts):
        if image_model.family == "sd3":
            found = image_model.pipe.encode_prompt(text, None, None)
            expected = {"encoder_hidden_states": found[0], "pooled_projections": found[2]}
        else:
            found = image_model.pipe.encode_prompt(text, torch.device("cpu"), 1, False)
            expected = {"encoder_hidden_states": found[0]}
        rows = prompts.rows(torch.tensor([i]))
        assert rows.keys() == expected.keys()
        for name, value in rows.items():
            assert FLOAT32.holds(value, expected[name].detach(), size(expected[name].detach()))
            assert not value.requires_grad


# --- the model


def test_everything_is_frozen_and_nothing_is_registered(image_model):
    network = image_model.network
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training
    model = image_model.velocity()
    assert not list(model.parameters())
    assert not list(model.buffers())
    assert not model.state_dict()
    assert model.network is network
    guided = Guided(model, 3.0)
    assert not list(guided.parameters())


def test_the_network_can_be_exchanged(image_model):
    model, x = image_model.velocity(), noise((2, *image_model.event_shape))
    before = model(x, 0.5)

    class Wrapped(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **inputs):
            (output,) = self.module(**inputs)
            return (2 * output,)

    model.network = Wrapped(image_model.network)
    assert not list(model.parameters())
    assert not torch.equal(model(x, 0.5), before)
    model.network = image_model.network
    assert torch.equal(model(x, 0.5), before)


def test_gradients_reach_points_and_unfrozen_weights(image_model):
    model = image_model.velocity()
    weight = next(image_model.network.parameters()).requires_grad_(True)
    try:
        x = noise((2, *image_model.event_shape)).requires_grad_(True)
        slopes = torch.autograd.grad(model(x, 0.5).square().sum(), [x, weight])
    finally:
        weight.requires_grad_(False)
    assert all(bool(slope.abs().sum() > 0) for slope in slopes)


def test_conditions_and_times_in_every_form(image_model):
    model = image_model.velocity(image_model.prompts(TEXTS))
    x, index = noise((3, *image_model.event_shape)), torch.tensor([2, 0, 1])
    expected = model(x, torch.full((3,), 0.5), index)
    wide = torch.stack([index, torch.tensor([7, 8, 9])], 1)
    for t in (0.5, torch.tensor(0.5), torch.tensor([0.5]), torch.tensor(0.5, dtype=DOUBLE)):
        for cond in (index, wide):
            assert torch.equal(model(x, t, cond), expected)
    assert torch.equal(model(x, 0.5), model(x, 0.5, torch.zeros(3, dtype=torch.long)))
    assert not torch.equal(model(x, 0.5), expected)
    for row in range(3):
        alone = model(x[row : row + 1], 0.5, index[row : row + 1])
        assert FLOAT32.holds(alone, expected[row : row + 1], size(expected))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_result_has_the_points_dtype(image_model, dtype):
    model, x = image_model.velocity(), noise((2, *image_model.event_shape)).to(dtype)
    assert model(x, 0.5).dtype == dtype
    assert model(x, torch.tensor([0.5, 0.25]), None).dtype == dtype


def test_autocast(image_model):
    """The network runs in the lower precision, the conversion does not."""
    seen = []
    image_model_dtype = NetworkVelocity(
        image_model.network, image_model.clock, image_model.prompts(()), autocast=torch.bfloat16
    )
    handle = image_model.network.register_forward_hook(lambda m, i, o: seen.append(o[0].dtype))
    try:
        out = image_model_dtype(noise((2, *image_model.event_shape)), 0.5)
    finally:
        handle.remove()
    assert seen == [torch.bfloat16]
    assert out.dtype == torch.float32


def test_refusals(image_model):
    model, x = image_model.velocity(), noise((2, *image_model.event_shape))
    first, last = image_model.span
    for t in (first, last, torch.tensor([first, last])):
        assert bool(torch.isfinite(model(x, t)).all())
    for t in (first - 1e-3, last + 1e-3, float("nan"), torch.tensor([0.5, last + 1e-3])):
        with pytest.raises(ValueError, match=rf"t must lie in \[{first:g}, {last:g}\]"):
            model(x, t)
    with pytest.raises(ValueError, match=r"t must be a scalar or have shape \(2,\), .* got \(3,\)"):
        model(x, torch.full((3,), 0.5))
    with pytest.raises(TypeError, match=r"t must be torch.float32 or .* got torch.bfloat16"):
        model(x, torch.full((2,), 0.5, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"cond must have shape \(2,\) or .* got \(3,\)"):
        model(x, 0.5, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"prompt indices from 0 .* to 0, got 0 to 1"):
        model(x, 0.5, torch.tensor([0, 1]))
    with pytest.raises(TypeError, match=r"cond must be torch.long, got torch.float32"):
        model(x, 0.5, torch.zeros(2))
    with pytest.raises(ValueError, match="texts must be a sequence of strings, got 'a red square'"):
        image_model.prompts("a red square")
    with pytest.raises(ValueError, match="weight must be a finite number, got nan"):
        Guided(model, float("nan"))
    with pytest.raises(
        ValueError, match=r"texts must begin with the empty prompt, '', got \('a',\)"
    ):
        Prompts(("a", "b"), NO_PROMPTS.rows)
    with pytest.raises(ValueError, match=r"texts\[1\] must .* sign 2 is half of a surrogate pair"):
        image_model.prompts(["a", "b\ud83d"])


# --- pictures


def test_pictures_and_latents(image_model):
    """Shapes, range, and the pipeline's own scaling and shift."""
    x = noise((2, *image_model.event_shape))
    pictures = image_model.decode(x)
    vae = image_model.pipe.vae
    assert pictures.shape == (2, *(tiny.PICTURE if vae is not None else image_model.event_shape))
    assert pictures.dtype == torch.float32
    low, high = torch.aminmax(pictures)
    assert low >= 0
    assert high <= 1
    assert image_model.encode(pictures).shape == x.shape
    if vae is None:
        inside = 0.1 * x.clamp(-1, 1)
        assert FLOAT32.holds(image_model.encode(image_model.decode(inside)), inside, 1.0)
        return
    shift = vae.config.shift_factor or 0.0
    latents = (image_model.encode(pictures) / vae.config.scaling_factor + shift).detach()
    expected = vae.encode(2 * pictures - 1).latent_dist.mode().detach()
    assert FLOAT32.holds(latents, expected, size(expected))


@pytest.mark.parametrize("name", ["pixel", "sd3"])
def test_saturated_pixels_keep_their_gradient(name):
    image_model = ImageModel(PIPES[name]())
    if name == "sd3":
        image_model.pipe.vae.decoder.conv_out.weight.mul_(50)
    x = (50 * noise((1, *image_model.event_shape))).requires_grad_(True)
    pictures = image_model.decode(x)
    assert bool((pictures == 1).any() | (pictures == 0).any())
    weights = noise(pictures.shape, 3)
    (slope,) = torch.autograd.grad((pictures * weights).sum(), x)
    assert bool(torch.isfinite(slope).all())
    if image_model.pipe.vae is None:
        assert FLOAT32.holds(slope, weights / 2, 1.0)
    else:
        assert bool((slope != 0).any())


def test_sampling_gives_events_without_a_graph(image_model):
    model = image_model.velocity(image_model.prompts(TEXTS))
    start, cond = noise((2, *image_model.event_shape)), torch.tensor([1, 2])
    for method in ("euler", "heun"):
        x1 = sample(Guided(model, 2.0), start, image_model, 3, cond, method)
        assert x1.shape == start.shape
        assert bool(torch.isfinite(x1).all())
        assert not x1.requires_grad
        assert torch.equal(x1, sample(Guided(model, 2.0), start, image_model, 3, cond, method))
