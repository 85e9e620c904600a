"""A user's method file held to the contract: the message names the file, the part and what came."""

import re
from dataclasses import fields

import pytest
import torch

from theory.common.user_code import named
from theory.methods import Draws, ProblemTask
from theory.methods.contract import returned
from theory.methods.contract.perturbed import Perturbed
from theory.methods.contract.places import _zero
from theory.methods.registry import build, methods, parse_method
from theory.problems.problem import load_problem

FILE = """\
from dataclasses import dataclass

import torch
from theory.methods import Method, Policy, endpoint_batch, square


@dataclass(frozen=True)
class Mine(Method):
    name = "mine"

    def collect(self, policy, task, n, draws):
        batch = endpoint_batch(task, task.endpoints(n, draws))
        {collect}

    def loss(self, policy, task, batch):
        error = policy.student(batch["x"], batch["t"], batch["cond"]) - batch["y"]
        {loss}

    {more}
"""
GOOD = {
    "collect": "return batch",
    "loss": "return square(error), {'r': batch['r']}",
    "more": "pass",
}


def written(folder, **parts):
    path = folder / "mine.py"
    path.write_text(FILE.format(**{**GOOD, **parts}))
    return path


def one_step(method, n=4, blocks=2):
    """What a trainer does with a method."""
    problem = load_problem("note_1d")
    task = ProblemTask(
        [problem] * blocks,
        dtype=torch.float64,
        auxiliary_maker=lambda outputs, draws: Perturbed(_zero, blocks, problem.dim, outputs),
    )
    draws = Draws.seeded(list(range(blocks)), torch.float64)
    student = Perturbed(problem.base_field, blocks, problem.dim, problem.dim)
    policy = returned.setup(method, student, task, draws)
    batch = returned.collect(method, policy, task, n, draws)
    losses, _ = returned.loss(method, policy, task, batch)
    losses.mean().backward()
    returned.check_gradients(method, policy)
    returned.after_step(method, policy, 1)
    returned.optimum(method, problem)
    returned.target(method, problem)


WRONG = {
    "no gradient": ({"loss": "return square(error).detach(), {}"}, "loss returned losses without"),
    "one value, not two": (
        {"loss": "return square(error)"}, r"loss returned a tensor of shape \(8,\)"),
    "three": ({"loss": "return 1, 2, 3"}, "loss returned a tuple of 3"),
    "nothing": ({"loss": "pass"}, "loss returned None"),
    "a mean": (
        {"loss": "return square(error).mean(), {}"},
        r"loss returned losses, a tensor of shape \(\) .* rows = 8 here"),
    "a number": ({"loss": "return 1.0, {}"}, "loss returned losses, a float"),
    "whole numbers": (
        {"loss": "return batch['t'].long(), {}"}, "loss returned losses, .* torch.int64"),
    "info that is a float": ({"loss": "return square(error), 1.0"}, "loss returned info, a float"),
    "info of a float": (
        {"loss": "return square(error), {'a': 1.0}"}, r"loss returned info\['a'\], a float"),
    "info of a mean": (
        {"loss": "return square(error), {'a': error.mean()}"},
        r"loss returned info\['a'\], a tensor of shape \(\)"),
    "a gradient that reaches nothing": (
        {"loss": "return square(error.detach().requires_grad_()), {}"},
        "loss returned losses whose gradient comes to none of policy.parameters"),
    "a batch that is a tuple": (
        {"collect": "return batch['x'], batch['t']"}, "collect returned a tuple of 2"),
    "a batch with one number": (
        {"collect": "return {**batch, 'n': n}"}, r"collect returned batch\['n'\], a int"),
    "a batch of other rows": (
        {"collect": "return {**batch, 't': batch['t'][:3]}"},
        r"collect returned batch\['t'\], a tensor of shape \(3,\) .* rows = 8 here"),
    "a policy that is none": (
        {"more": "def setup(self, student, task, draws): return student"},
        "setup returned a Perturbed"),
    "nothing to train": (
        {"more": "def setup(self, student, task, draws): return Policy(None)"},
        "setup returned a Policy with nothing to train"),
    "an optimum that is a field": (
        {"more": "def optimum(self, problem): return problem.base_field"}, "optimum returned a "),
    "a target that is a number": (
        {"more": "def target(self, problem): return 2.0"}, "target returned a float"),
    "an error of a library": (
        {"loss": "return torch.cat(error), {}"}, r"loss raised TypeError: .*mine\.py, line 17\)"),
    "an error of its own": (
        {"collect": "raise KeyError('eyes')"}, r"collect raised KeyError: 'eyes' .*line 13\)"),
    "a ValueError of its own": (
        {"more": "def after_step(self, policy, step): raise ValueError"},
        r"after_step raised ValueError \(.*line 19\)"),
    "a file that is not there": (
        {"collect": "open('nowhere')"}, r"collect raised FileNotFoundError: .*line 13\)"),
    "our own function misused": ({"loss": "return square(None), {}"}, "loss raised AttributeError"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_c1_what_a_users_method_returns_or_raises_is_named(name, tmp_path):
    parts, message = WRONG[name]
    path = written(tmp_path, **parts)
    with pytest.raises(ValueError, match=rf"{path}: Mine\.{message}") as caught:
        one_step(parse_method(str(path)))
    assert re.search(": must (be|give) ", str(caught.value))


def test_a_right_one_passes(tmp_path):
    one_step(parse_method(str(written(tmp_path))))


# Fixed points that take seconds; `residual_db` has one too.
SLOW = ("nabla_db", "residual_nabla_db", "dag_db", "residual_db")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in methods()],
)
def test_so_does_every_method_of_ours(name):
    kind = methods()[name]
    short = {"steps": 4, "sigma_end": 0.1}
    one_step(build(kind, short if set(short) <= {f.name for f in fields(kind)} else {}))


@pytest.mark.parametrize("kind", [MemoryError, RuntimeError])
def test_that_memory_is_out_passes(kind):
    with pytest.raises(kind, match="out of memory"), named("who", "nothing"):
        raise kind("out of memory")


def test_a_check_of_ours_passes_through_a_users_code(tmp_path):
    """A reward that leaves the method's domain is said as it is, without the method's file."""
    path = written(tmp_path, collect="self.rewards.check_values(torch.tensor(torch.nan), 'mine')")
    with pytest.raises(ValueError, match=r"^the reward must have .* got values in \[nan"):
        one_step(parse_method(str(path)))
