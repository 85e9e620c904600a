"""A method's parts, called and held to the contract: what came back is what was promised.

Both trainers, and whatever else runs a method, call a user's file through these:

    policy = returned.setup(method, student, task, draws)
    batch = returned.collect(method, policy, task, n, draws)
    losses, info = returned.loss(method, policy, task, batch)
    losses.mean().backward(); returned.check_gradients(method, policy)
    returned.after_step(method, policy, step)
    best, tilt = returned.optimum(method, problem), returned.target(method, problem)

Every error is a ValueError that names the file, the part of the contract, and what came:

    FILE: KIND.PART returned WHAT: must be ...        FILE: KIND.PART raised ERROR (FILE, line N)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

from theory.common.user_code import named
from theory.fields.mixture import VelocityModel
from theory.methods.contract.draws import Draws
from theory.methods.contract.method import (
    Batch,
    Budget,
    Info,
    Method,
    Optimum,
    Policy,
    RewardDomain,
)
from theory.methods.contract.task import Task
from theory.problems.problem import Problem
from theory.tilts.tilt import Tilt

ATTRIBUTES: dict[str, type] = {
    "rewards": RewardDomain,
    "budget": Budget,
    "starts_from": str,
    "summary": str,
    "source": str,
    "named": tuple,
    "cycle": int,
    "states_per_row": int,
}
Stated = TypeVar("Stated")
# Columns that the trainers' tables have already.
TAKEN = ("step", "loss")
PROMISED = {
    "setup": "a Policy whose student or networks have parameters that require a gradient",
    "collect": "a dict of tensors (rows, ...), one row for each that was asked for, or None",
    "loss": "a pair (losses, info): losses (rows,), a floating-point tensor with a gradient in "
    "policy.parameters(), and info, a dict of names and tensors (rows,), which may be empty",
    "after_step": "a change of the policy's models or state, and no result",
    "optimum": "an Optimum, or None where none is known",
    "target": "a Tilt, or None where nothing is claimed",
    "rewards": "a RewardDomain",
    "check_problem": "a ValueError for a problem that the method does not allow, or no result",
}


def part(method: Method, name: str) -> AbstractContextManager[None]:
    """Around a call of method.NAME: what the user's code raises is named."""
    return named(_who(method, name), PROMISED[name])


def setup(method: Method, student: VelocityModel, task: Task, draws: Draws) -> Policy:
    """method.setup, with something to train.

    Raises:
        ValueError: as the module says.
    """
    with part(method, "setup"):
        policy = method.setup(student, task, draws)
    if not isinstance(policy, Policy):
        _refuse(method, "setup", _kind(policy))
    if not policy.parameters():
        _refuse(method, "setup", "a Policy with nothing to train")
    return policy


def collect(method: Method, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
    """method.collect, one row of everything for each that was asked for.

    Raises:
        ValueError: as the module says.
    """
    rows = task.blocks * n
    with part(method, "collect"):
        batch = method.collect(policy, task, n, draws)
    if not isinstance(batch, Mapping):
        _refuse(method, "collect", _kind(batch))
    if all(value is None for value in batch.values()):
        _refuse(method, "collect", "a dict without a tensor", rows)
    for key, value in batch.items():
        if value is not None and (not isinstance(value, Tensor) or value.shape[:1] != (rows,)):
            _refuse(method, "collect", f"batch[{key!r}], {_kind(value)}", rows)
    return batch


def loss(method: Method, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
    """method.loss, one value a row of the batch, with a gradient.

    Raises:
        ValueError: as the module says.
    """
    with part(method, "loss"):
        found = method.loss(policy, task, batch)
    if not isinstance(found, tuple) or len(found) != 2:
        _refuse(method, "loss", _kind(found))
    losses, info = found
    rows = next((len(v) for v in batch.values() if v is not None), None)
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        _refuse(method, "loss", f"losses, {_kind(losses)}", rows)
    if losses.ndim != 1 or (rows is not None and len(losses) != rows):
        _refuse(method, "loss", f"losses, {_kind(losses)}", rows)
    if not losses.requires_grad:
        _refuse(method, "loss", "losses without a gradient (detached, or made under no_grad)", rows)
    if not isinstance(info, Mapping):
        _refuse(method, "loss", f"info, {_kind(info)}", rows)
    for key, value in info.items():
        if not isinstance(value, Tensor) or value.shape != losses.shape:
            _refuse(method, "loss", f"info[{key!r}], {_kind(value)}", rows)
    return losses, dict(info)


def check_gradients(method: Method, policy: Policy) -> None:
    """After the backward pass: it came to something that is trained.

    Raises:
        ValueError: no parameter has a gradient.
    """
    if all(p.grad is None for p in policy.parameters()):
        _refuse(method, "loss", "losses whose gradient comes to none of policy.parameters()")


@contextmanager
def backward(method: Method) -> Iterator[None]:
    """Around the backward pass: what autograd refuses (a tensor changed in place, say) is named.

    Raises:
        ValueError: as the module says.
    """
    try:
        yield
    except RuntimeError as error:
        if "memory" in str(error).lower():
            raise
        _refuse(method, "loss", f"losses that cannot be differentiated ({error})")


def check_finite(method: Method, losses: Tensor) -> None:
    """At the first step, where no learning rate is to blame: some losses are finite.

    Raises:
        ValueError: none is.
    """
    if not bool(torch.isfinite(losses).any()):
        _refuse(method, "loss", "losses none of which is finite, at the first step")


def check_names(method: Method, info: Info, before: Sequence[str]) -> None:
    """What a step logs can head the columns of a table, those of the steps before (if any).

    Raises:
        ValueError: it cannot.
    """
    names = list(info)
    plain = all(isinstance(name, str) and "," not in name for name in names)
    if not plain or set(names) & set(TAKEN) or (before and names != list(before)):
        earlier = f", at an earlier step {list(before)}" if before else ""
        raise ValueError(
            f"{_who(method, 'loss')} returned info with the names {names}{earlier}: must be the "
            f"same names at every step, text without commas, and none of {', '.join(TAKEN)}"
        )


def after_step(method: Method, policy: Policy, step: int) -> None:
    """method.after_step.

    Raises:
        ValueError: as the module says.
    """
    with part(method, "after_step"):
        method.after_step(policy, step)


def optimum(method: Method, problem: Problem) -> Optimum | None:
    """method.optimum.

    Raises:
        ValueError: as the module says.
    """
    return _stated(method, "optimum", Optimum, problem)


def target(method: Method, problem: Problem) -> Tilt | None:
    """method.target.

    Raises:
        ValueError: as the module says.
    """
    return _stated(method, "target", Tilt, problem)


def _stated(method: Method, name: str, kind: type[Stated], problem: Problem) -> Stated | None:
    with part(method, name):
        found = getattr(method, name)(problem)
    if found is not None and not isinstance(found, kind):
        _refuse(method, name, _kind(found))
    return found


def attributes(method: Method) -> Method:
    """The method, whose attributes are of the contract's kinds.

    Raises:
        ValueError: as the module says.
    """
    for name, kind in ATTRIBUTES.items():
        with named(_who(method, name), f"a {kind.__name__}"):
            value = getattr(method, name)
        if not isinstance(value, kind):
            raise ValueError(f"{_who(method, name)} must be a {kind.__name__}, got {value!r}")
    return method


def _who(method: Method, name: str) -> str:
    kind = type(method)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or kind.__module__
    return f"{file}: {kind.__name__}.{name}"


def _kind(value: object) -> str:
    """What came, in words: its type, and a tensor's shape and dtype."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _refuse(method: Method, name: str, came: str, rows: int | None = None) -> NoReturn:
    here = "" if rows is None else f"; rows = {rows} here"
    raise ValueError(
        f"{_who(method, name)} returned {came}: must be {PROMISED[name]}{here} "
        "(theory/methods/contract/method.py)"
    )
