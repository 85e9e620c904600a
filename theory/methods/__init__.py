"""Fine-tuning methods, one file each: the loss and the optimum side by side.

Your own method needs what stands here and nothing else:

Method       setup, collect, loss, after_step, optimum, target, allowed rewards
Online       a Method that may train on samples of a lagging copy: epochs, pool
Anchored     a Method whose loss may hold the velocity to a reference
Task         path, reward, base samples; ProblemTask: one where exact answers exist
Draws        explicit random numbers, one generator a network
"""

from typing import TYPE_CHECKING

from theory.common.face import face

if TYPE_CHECKING:
    from theory.methods.contract.anchor import Anchored
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
    from theory.methods.contract.online import Online
    from theory.methods.contract.task import (
        Endpoints,
        Execution,
        ProblemTask,
        Task,
        column,
        endpoint_batch,
        interpolate,
        square,
    )
    from theory.methods.registry import methods, parse_method
else:
    __getattr__, __dir__, __all__ = face(__name__, __file__)
