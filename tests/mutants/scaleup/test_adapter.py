"""Mistakes in clocks, guidance, pictures and adapters."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from scaleup.adapter import FlowClock, Guided, ImageModel, VPClock, lora
from scaleup.adapter import model as models
from scaleup.adapter.lora import STUDENT, Adapters, LoraOptions, LoraVelocity, save_lora
from tests.helpers import LINE, points, size
from tests.mutants.harness import mutant_module, overriding
from tests.scaleup import tiny
from tests.scaleup.adapter.test_adapter import Conditional, planted, velocity_error
from tests.scaleup.adapter.test_diffusers import noise
from tests.scaleup.adapter.test_lora import FAMILIES, moved, reloaded, roles_are_kept
from tests.scaleup.planted import DOUBLE, abar
from theory.common.tolerances import FLOAT32
from theory.fields.paths import RECTIFIED_FLOW

# --- clocks


def at_knots(knots):
    """A clock of these knots."""
    clock = VPClock(abar(), "eps")
    clock.times = clock._knots = knots.sort().values
    clock.span = float(clock.times[0]), float(clock.times[-1])
    return clock


def vp(**parts):
    return overriding(VPClock, **parts)(abar(), "eps")


def scaled(clock, output, t):
    return output * clock.total(t)[:, None, None, None]


def read_as_v(whole, self, output, x, t):
    other = copy.copy(self)
    other.prediction = "v"
    return whole.func(other, scaled(self, output, t), x, t)


def velocity_of_noise(whole, self, output, x, t):
    flat = output.flatten(1), x.flatten(1), t
    return RECTIFIED_FLOW.convert(*flat, "eps", "v").reshape(x.shape)


VP_MUTANTS = {
    "forgotten b": lambda: vp(inputs=lambda whole, self, x, t: (x, whole(x, t)[1])),
    "b upside down": lambda: vp(total=lambda whole, t: 1 / whole(t)),
    "time reversed": lambda: vp(step=lambda whole, self, t: len(self.times) - 1 - whole(t)),
    "one step early": lambda: vp(step=lambda whole, self, t: whole(t) + 1),
    "one step late": lambda: vp(step=lambda whole, self, t: whole(t) - 1),
    "steps truncated": lambda: vp(step=lambda whole, self, t: whole(t).floor()),
    "sigma for t": lambda: at_knots(1 - VPClock(abar(), "eps").times),
    "abar for its root": lambda: at_knots(abar()),
    "eps read as v": lambda: vp(velocity=read_as_v),
    "velocity of noise": lambda: vp(velocity=velocity_of_noise),
}


@pytest.mark.parametrize("name", VP_MUTANTS)
def test_vp_mutants_fail(name):
    assert velocity_error(LINE, "eps", VP_MUTANTS[name]()) > FLOAT32.rtol


def without_b(whole, self, output, x, t):
    return whole(scaled(self, output, t), x, t)


def test_v_mutants_fail():
    """v taken for eps, and v whose scale b is forgotten."""
    assert velocity_error(LINE, "v", VPClock(abar(), "eps")) > FLOAT32.rtol
    wrong = overriding(VPClock, velocity=without_b)(abar(), "v")
    assert velocity_error(LINE, "v", wrong) > FLOAT32.rtol


FLOW_MUTANTS = {
    "sign kept": {"velocity": lambda whole, self, output, x, t: output},
    "time reversed": {"inputs": lambda whole, self, x, t: (x, self.train_steps * t)},
    "sigma for the step": {"inputs": lambda whole, self, x, t: (x, 1 - t)},
}


@pytest.mark.parametrize("name", FLOW_MUTANTS)
def test_flow_mutants_fail(name):
    clock = overriding(FlowClock, **FLOW_MUTANTS[name])()
    assert velocity_error(LINE, "flow", clock) > FLOAT32.rtol


# --- guidance


def with_weight(of):
    """Guidance with another weight."""
    return lambda model, weight: Guided(model, of(weight))


def edited(old, new):
    return mutant_module("scaleup.adapter.velocity", (old, new)).Guided


GUIDANCE_MUTANTS = {
    "conditional first": with_weight(lambda w: 1 - w),
    "1 + w": with_weight(lambda w: 1 + w),
    "emptied column": edited("empty[(..., 0)", "empty[(..., 1)"),
}


@pytest.mark.parametrize("name", GUIDANCE_MUTANTS)
def test_guidance_mutants_fail(name):
    x, cond = points(2, 1)[:, :, None, None].float(), torch.tensor([[1, 5], [2, 6]])
    expected, found = (
        kind(Conditional(), 3.0)(x, 0.5, cond) for kind in (Guided, GUIDANCE_MUTANTS[name])
    )
    assert not FLOAT32.holds(found, expected, size(expected))


@pytest.mark.parametrize("rows", [1, 3])
def test_doubled_embeddings_without_doubled_latents_are_refused(rows):
    """The known bug: with one row it would broadcast, and train on nonsense in silence."""
    model, x = planted(LINE), torch.zeros(rows, 1, 1, 1, dtype=DOUBLE)
    cond = torch.zeros(rows, dtype=torch.long)
    assert Guided(model, 2.0)(x, 0.5, cond).shape == x.shape
    with pytest.raises(ValueError, match=r"cond must have shape .* got \(\d,\)"):
        edited("torch.cat([x, x])", "x")(model, 2.0)(x, 0.5, cond)


# --- pictures


def test_pictures_mutants_fail(monkeypatch):
    """A clamp with its own gradient, and a shift on the wrong side of the scale."""

    def shift_first(whole, self, x1):
        config = self.pipe.vae.config
        return whole(x1 + config.shift_factor * (1 - config.scaling_factor))

    z = noise((1, *tiny.LATENT))
    right = ImageModel(tiny.sd3()).decode(z).detach()
    wrong = overriding(ImageModel, decode=shift_first)(tiny.sd3()).decode(z).detach()
    assert not FLOAT32.holds(wrong, right, 1.0)
    x = torch.full((1, 3, 8, 8), 2.0, requires_grad=True)
    for dead in (False, True):
        if dead:
            clamp = SimpleNamespace(apply=lambda pictures: pictures.clamp(0, 1))
            monkeypatch.setattr(models, "_Clamp", clamp)
        (slope,) = torch.autograd.grad(ImageModel(tiny.sd15(pixel=True)).decode(x).sum(), x)
        assert bool((slope == 0).all()) is dead


# --- adapters


def shared_weights(whole, self, adapter):
    whole(adapter)
    for name, value in self.weights[STUDENT].items():
        self.weights[adapter][name].data = value.data


def reference_is_the_student(whole, self, role="reference"):
    if role == "old":
        return whole(role)
    return LoraVelocity(self.adapters, self.model, STUDENT).eval()


def the_student_for_any(whole, self, adapter):
    whole(STUDENT if adapter else None)
    self.active = adapter


def never_enabled(whole, self, adapter):
    with patch.object(self.network, "enable_adapters", lambda: None):
        whole(adapter)


ROLES = {
    "shared weights": ("Adapters", overriding(Adapters, add=shared_weights)),
    "the reference is the student": (
        "LoraVelocity",
        overriding(LoraVelocity, frozen_copy=reference_is_the_student),
    ),
    "the student for any": ("Adapters", overriding(Adapters, _switch=the_student_for_any)),
    "never enabled again": ("Adapters", overriding(Adapters, _switch=never_enabled)),
}


@pytest.mark.parametrize("name", ROLES)
def test_mixed_up_roles_are_seen(name, monkeypatch):
    monkeypatch.setattr(lora, *ROLES[name])
    assert not all(roles_are_kept())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_file_without_alpha_is_seen(family, tmp_path, monkeypatch):
    whole = lora.write_tensors
    monkeypatch.setattr(
        lora, "write_tensors", lambda file, weights, words: whole(file, weights, {"format": "pt"})
    )
    run = moved(family, LoraOptions(4, 16.0))
    save_lora(run.model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not torch.equal(reloaded(run, tmp_path, family), run.student(*run.rows))
