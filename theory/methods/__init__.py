"""Fine-tuning methods, one file each: the loss and the optimum side by side.

A method of one's own needs what stands here and nothing else (see `contract`).
"""

from typing import TYPE_CHECKING

from theory.common.face import face

if TYPE_CHECKING:
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
    from theory.methods.registry import methods, parse_method
else:
    __getattr__, __dir__, __all__ = face(__name__, __file__)
