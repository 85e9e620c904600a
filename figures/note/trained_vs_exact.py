"""Every method, trained: what its network samples over the exact law of its optimum."""

from __future__ import annotations

from collections.abc import Mapping

from figures.shared.result import Result
from figures.shared.trained import Shown
from toys.evaluation.draw import panels


def make(setting: str, trained: Mapping[str, Shown]) -> Result:
    """One panel a method, on the note's problem."""

    results = [shown.result for shown in trained.values()]
    figure = panels(results[0]["problem"], results, [shown.curves for shown in trained.values()])
    return Result(figure, {"methods": list(trained)}, {k: v.numbers for k, v in trained.items()})
