"""What every method and every task keeps to; a method of one's own needs nothing else.

method    Method: setup, collect, loss, after_step, optimum, target, allowed rewards
task      Task: path, reward, base samples; ProblemTask: one where exact answers exist
draws     Draws: explicit random numbers, one generator a network
returned  a method's parts, called and held to the contract: a user's file is named
probe     the sweeps that every method passes: shapes, determinism, expected gradients
restoring whether the expected gradient leads back to the optimum; `places` has the policies
          there and at the reference, `perturbed` their models
"""

from theory.methods.contract.draws import Draws
from theory.methods.contract.method import (
    UNIT_INTERVAL,
    Batch,
    Budget,
    Info,
    Method,
    Optimum,
    Policy,
    RewardDomain,
    frozen_copy,
)
from theory.methods.contract.task import (
    ProblemTask,
    Task,
    column,
    endpoint_batch,
    interpolate,
    square,
)

__all__ = [
    "UNIT_INTERVAL",
    "Batch",
    "Budget",
    "Draws",
    "Info",
    "Method",
    "Optimum",
    "Policy",
    "ProblemTask",
    "RewardDomain",
    "Task",
    "column",
    "endpoint_batch",
    "frozen_copy",
    "interpolate",
    "square",
]
