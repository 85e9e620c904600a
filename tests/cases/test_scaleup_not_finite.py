"""B3, E10: what became infinite or nan is named, with model, prompt and step, and a way out."""
# ruff: noqa: F811

import math
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from scaleup.adapter import open_model
from scaleup.adapter.sampling import NonFiniteError, NonFiniteStateError, sample
from scaleup.training.run import run
from tests.scaleup.conftest import folders, fresh_accelerate  # noqa: F401
from tests.scaleup.work import session, settings


def test_b3_a_weight_that_is_nan(folders, tmp_path):
    shutil.copytree(folders["sd15"], tmp_path / "nan")
    file = tmp_path / "nan" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.bias"][1] = math.nan
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"nan/unet: its weight conv_in.bias must be finite, got 1 values"
    ):
        open_model(str(tmp_path / "nan"))


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_b3_the_step_and_the_row(solver, folders):
    """Row 1 leaves the numbers in the second of four steps."""
    model = open_model(folders["sd15"])
    calls = iter(range(100))
    spoilt = 1 if solver == "euler" else 2

    def velocity(x, t, cond):
        found = torch.zeros_like(x)
        found[1, 0, 0, 0] = math.inf if next(calls) == spoilt else 0.0
        return found

    noise = torch.zeros(3, *model.event_shape)
    with pytest.raises(NonFiniteStateError, match=r"row 1 is not, first after step 2 of 4 \("):
        sample(velocity, noise, model, 4, None, solver)


def test_b3_model_prompt_and_step(folders, tmp_path):
    found = session(settings(folders, method="ddpo", chunk=2), tmp_path)
    cond = torch.tensor([[1], [3], [2], [3]])
    noise = torch.zeros(4, *found.model.event_shape)
    source = re.escape(found.model.source)
    with torch.no_grad():
        for value in found.student.parameters():
            value.fill_(1e30)
    assert bool(torch.isfinite(found.task.sampled(found.base, noise, cond)).all())
    with pytest.raises(
        NonFiniteError,
        match=rf"^{source}: samples must be finite, and one of the student for prompt 'a "
        r"red square' is not, first after step 1 of 2 \(from t = .*; the student's stay so with a "
        r"smaller learning_rate",
    ):
        found.task.sampled(found.student, noise, cond)
    # Pictures that the decoder spoils, and those that came so.
    x1 = torch.zeros(2, *found.model.event_shape)
    found.model.decode = lambda x: torch.full((len(x), 3, 4, 4), math.nan)
    with pytest.raises(
        NonFiniteError, match=r"the decoded picture must be .* not of prompt 'two green dogs'"
    ):
        found.task.reward(x1, cond[1:3])
    with pytest.raises(
        NonFiniteError, match="x_1 must be finite, and is not of prompt 'a red square'"
    ):
        found.task.reward(x1 / 0, cond[:2])


@pytest.mark.parametrize(
    ("method", "steps", "said"),
    [
        (
            "tilt_matching",
            1,
            r"after 1 steps \(learning_rate = 1e\+30\): .* one of the student for",
        ),
        (
            "tilt_matching",
            2,
            r"finite, got nan at step 2 \(learning_rate = 1e\+30; take a smal",
        ),
        ("ddpo:steps=2", 2, r"after 1 steps \(learning_rate = 1e\+30\): .* x_1 must be finite"),
    ],
)
def test_e10_a_learning_rate_that_is_far_too_large(method, steps, said, folders, tmp_path):
    config = settings(folders, method=method, steps=steps, learning_rate=1e30)
    with pytest.raises(ValueError, match=said):
        run(config, tmp_path, tensorboard=False)
