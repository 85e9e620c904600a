"""A method's parts, called and held to the contract: what came back is what was promised.

Both trainers, and whatever else runs a method, call a user's file through these:

    policy = returned.setup(method, student, task, draws)
    batch = returned.collect(method, policy, task, n, draws)
    losses, info = returned.loss(method, policy, task, batch)
    losses.mean().backward(); returned.check_gradients(method, policy)
    returned.after_step(method, policy, step)
    best, tilt = returned.optimum(method, problem), returned.target(method, problem)

Every error is a ValueError that names the file, the part of the contract, and what came:

    FILE: KIND.PART returned WHAT: allowed is ...        FILE: KIND.PART raised ERROR (FILE, line N)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NoReturn

from torch import Tensor

from theory.fields import VelocityModel
from theory.methods.contract.draws import Draws
from theory.methods.contract.method import Batch, Info, Method, Optimum, Policy
from theory.methods.contract.task import Task
from theory.problem import Problem
from theory.tilt import Tilt
from theory.user_code import named

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
    """Around a call of method.NAME: what the user's own code raises is named."""
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
    with part(method, "optimum"):
        found = method.optimum(problem)
    if found is not None and not isinstance(found, Optimum):
        _refuse(method, "optimum", _kind(found))
    return found


def target(method: Method, problem: Problem) -> Tilt | None:
    """method.target.

    Raises:
        ValueError: as the module says.
    """
    with part(method, "target"):
        found = method.target(problem)
    if found is not None and not isinstance(found, Tilt):
        _refuse(method, "target", _kind(found))
    return found


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
        f"{_who(method, name)} returned {came}: allowed is {PROMISED[name]}{here} "
        "(theory/methods/contract/method.py)"
    )
