"""A7: schedules that eps-prediction cannot have are refused, whatever the scheduler."""

import diffusers
import pytest
import torch

from scaleup.adapter import ImageModel, VPClock
from scaleup.adapter.clocks import LEAST_ABAR
from tests.scaleup import tiny

ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
SCHEDULERS = {
    "DDIMScheduler": ZERO_SNR,
    "DDPMScheduler": ZERO_SNR,
    "EulerDiscreteScheduler": ZERO_SNR,
    "DPMSolverMultistepScheduler": ZERO_SNR,
    "UniPCMultistepScheduler": ZERO_SNR,
    "PNDMScheduler": COSINE,
}


def scheduler(name, **options):
    return getattr(diffusers, name).from_config({**tiny.SD15_SCHEDULE, **options})


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a7_eps_with_zero_terminal_snr_is_refused(name):
    """Euler's and others' last abar is 2^-24: x_1 would have a deviation of thousands."""
    options = SCHEDULERS[name]
    with pytest.raises(ValueError, match=rf"scheduler {name}: abar .* needs prediction_type = 'v_"):
        ImageModel(tiny.sd15(scheduler=scheduler(name, **options)))
    v = ImageModel(
        tiny.sd15(
            "v_prediction", scheduler=scheduler(name, prediction_type="v_prediction", **options)
        )
    )
    assert v.clock.prediction == "v"
    assert ImageModel(tiny.sd15(scheduler=scheduler(name))).clock.prediction == "eps"


def test_the_least_that_eps_allows():
    """An error of 1 in eps moves x_1 by at most 1000."""
    abar = torch.tensor([0.9, 0.1, LEAST_ABAR], dtype=torch.float64)
    clock = VPClock(abar, "eps")
    x, t = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.tensor([clock.span[0]]).double()
    one, other = (clock.velocity(x + error, x, t) for error in (0.0, 1.0))
    assert 900 < float((1 - t) * (other - one).abs()) <= 1000
    with pytest.raises(ValueError, match="abar must be at least two strictly decreasing"):
        VPClock(abar * torch.tensor([1, 1, 0.99]), "eps")
