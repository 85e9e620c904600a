"""The parts of every trained network's error as bars: bias, learning, sampling with its floor."""

from __future__ import annotations

from collections.abc import Mapping

from figures.shared.result import Result
from figures.shared.trained import Shown
from toys.evaluation.draw import budget


def make(setting: str, trained: Mapping[str, Shown]) -> Result:
    """Three bars a method, on the note's problem."""

    results = [shown.result for shown in trained.values()]
    figure = budget(results, f"{results[0]['problem']}: where the error of each method comes from")
    # The bias needs no training: exact, so compared with the reference.
    bias = {label: shown.result["method_bias"] for label, shown in trained.items()}
    return Result(
        figure,
        {"methods": list(trained), "method_bias": bias},
        {k: v.numbers for k, v in trained.items()},
    )
