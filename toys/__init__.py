"""Small networks trained by every method, and what they sample against the truth."""

from typing import TYPE_CHECKING

from theory.common.face import face

if TYPE_CHECKING:
    from toys.evaluation.compare import compare
    from toys.evaluation.evaluate import Sampling
    from toys.training.config import RunConfig
    from toys.training.runs import Run
    from toys.training.schedule import train
else:
    __getattr__, __dir__, __all__ = face(__name__, __file__)
