"""GFlowNet methods on pipelines: flow networks in checkpoints, refusals at the start."""

from dataclasses import replace

import pytest
import torch

from scaleup.adapter.auxiliary import EncoderHalf, FlowNetwork
from scaleup.training.config import TrainConfig, load_config, recipe_names
from scaleup.training.run import run
from tests.scaleup.training.test_trainer import goes_on, state_of
from tests.scaleup.work import session, settings, trained
from theory.common.tolerances import ALGEBRA

FULL = "w_backward=1,anchor_weight=0.1,smoothing=0.002,smoothing_draws=2"
METHODS = {
    "residual nabla-DB": f"residual_nabla_db:steps=3,subset=2,{FULL}",
    "residual nabla-DB, Algorithm 1": (
        "residual_nabla_db:steps=3,anchor_weight=0.1,anchor=base,data=previous"
    ),
    "bidirectional": "residual_nabla_db:steps=3,bidirectional=true",
    "residual DB": "residual_db:steps=4,subset=2",
    "relative trajectory balance": "relative_trajectory_balance:steps=3,backward=0.5",
}
QUICK = "residual nabla-DB"


@pytest.mark.parametrize(
    "name", [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in METHODS]
)
def test_a_killed_run_goes_on_to_the_same_bits(name, folders, tmp_path):
    assert goes_on(settings(folders, method=METHODS[name]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [QUICK, "residual DB"])
def test_a_killed_run_of_a_transformer_goes_on_to_the_same_bits(name, folders, tmp_path):
    assert goes_on(settings(folders, "sd3", method=METHODS[name]), tmp_path)


def test_flow_and_student_are_both_trained_and_kept(folders, tmp_path):
    """The flow network starts at 0; its weights are in the checkpoint, by its name."""
    config = settings(folders, method=METHODS[QUICK], steps=2)
    start = session(config, tmp_path / "start")
    flow = start.policy.networks["flow"]
    assert isinstance(flow, FlowNetwork)
    x = torch.ones(2, *start.task.event_shape)
    ends = x, torch.tensor([0.0, 1.0]), torch.tensor([[1], [2]])
    assert torch.equal(flow(*ends), torch.zeros_like(x))
    trainer = trained(config, tmp_path)
    state = state_of(trainer)
    weights = {name for name in state if name.startswith("policy.networks.flow.")}
    assert {f"policy.networks.flow.{name}" for name in flow.state_dict()} == weights
    assert trainer.policy.networks["flow"](*ends).any()
    assert all(row["gradient_norm"] > 0 for row in trainer.metrics)


@pytest.mark.parametrize(
    ("method", "name"), [("residual_db:steps=2", "flow"),
                         ("relative_trajectory_balance:steps=2", "log_z")],
)  # fmt: skip
def test_numbers_are_of_an_encoder_half(method, name, folders, tmp_path):
    policy = session(settings(folders, method=method), tmp_path).policy
    assert isinstance(policy.networks[name].network, EncoderHalf)


def test_a_long_chain_ends_where_the_model_does(folders, tmp_path):
    """Equal steps to t = 1 would leave the schedule with 50; more than 33 end in its last time."""
    found = session(settings(folders, method="residual_nabla_db:sigma_end=0.02"), tmp_path)
    for steps, within in ((30, True), (50, False)):
        chain = type(found.method)(steps=steps, sigma_end=0.02).chain(found.task)
        assert float(chain.times[0]) == found.task.first_time
        assert (chain.last_time is None) == within
        assert float(chain.times[-1]) <= float(found.task.times[-1])
    assert ALGEBRA.holds(chain.times[-1], found.task.times[-1])


REFUSED = {
    "no gradient": ("residual_nabla_db", {"reward": "jpeg_size"}, "has no gradient"),
    "a reward that is not positive": ("residual_db:form=plain,scale=1", {}, r"\[0, inf\]"),
    "a solver of second order": ("residual_nabla_db:solver=sde-dpm-solver++", {}, "'solver'"),
    "no prior": ("nabla_db", {"reward": "brightness"}, "must run on a chain that starts at pure"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_any_training(case, folders, tmp_path):
    method, options, message = REFUSED[case]
    config = settings(folders, method=method, **options)
    with pytest.raises(ValueError, match=message):
        run(config, tmp_path, tensorboard=False)
    assert list(tmp_path.iterdir()) == []


RECIPES = {
    name: load_config(name, {})
    for name in recipe_names()
    if load_config(name, {}).parsed_method.source.find("GFlowNet") >= 0 or name == "sd15-ddpo"
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_train_a_small_pipeline(name, folders, tmp_path):
    """As they are, in bf16 and with their 50 steps, on fewer rows."""
    few = {"batch": 4, "micro_batch": 2, "steps": 2, "chunk": 4, "lora_rank": 2, "device": "cpu"}
    place = {"model": folders["sd15"], "prompts": folders["prompts"], "reward": "redness"}
    config = replace(RECIPES[name], **few, **place)
    trainer = trained(config, tmp_path)
    assert trainer.step == 2
    assert all(row["gradient_norm"] > 0 for row in trainer.metrics)


def test_recipes_have_the_papers_settings():
    options = {name: config.parsed_method.options for name, config in RECIPES.items()}
    assert len(options) == 5
    nabla = options["sd15-residual-nabla-db"]
    expected = {"steps": 50, "subset": 5, "smoothing": 2e-3, "smoothing_draws": 3, "prior": 1.0,
                "anchor_weight": 1000.0, "anchor": "previous", "scale": 1e4}  # fmt: skip
    assert expected.items() <= nabla.items()
    other = options["sd15-residual-nabla-20-steps"]
    assert {k for k in nabla if nabla[k] != other[k]} == {"steps", "subset"}
    rates = {name: config.learning_rate for name, config in RECIPES.items()}
    assert rates["sd15-residual-nabla-db"] == 1e-3
    assert rates["sd15-residual-db"] == 3e-4
    assert options["sd15-residual-db"]["anchor_weight"] == 1.0
    assert {(config.batch, config.accumulate) for name, config in RECIPES.items()
            if "nabla" in name or name == "sd15-residual-db"} == {(32, 4)}  # fmt: skip


@pytest.mark.slow
def test_the_built_in_model_runs_unchanged(tmp_path):
    """Its own prompts, and a reward with a gradient."""
    for number, name in enumerate((QUICK, "residual DB", "relative trajectory balance")):
        config = TrainConfig(
            method=METHODS[name].replace("backward=0.5", "backward=0"), reward="brightness",
            steps=2, batch=4, lora_rank=2, chunk=8, evaluate=8, grid_every=0,
        )  # fmt: skip
        folder = run(config, tmp_path / str(number), tensorboard=False)
        assert (folder / "comparison.png").is_file()
