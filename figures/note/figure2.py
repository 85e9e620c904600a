"""Figure 2 of the note (liu): what each Phi-weighted loss samples, trained and exactly.

The optimum of E[Phi(r) |v - (X_1 - X_0)|^2] is the velocity of pi_1 Phi(r)/Z (claim L11): its law
lies on the target to the integrator's accuracy. NFT's law, dashed, does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from figures.shared.laws import PLACES, compare, note_wrappers, overlay, sampled, window
from figures.shared.result import Result
from figures.shared.trained import Shown
from theory.evaluation.draw import ORANGE, VERMILION, subplots
from theory.evaluation.grids import flow_on_grid
from theory.laws.distances import grid_distances
from theory.problems.problem import load_problem

SCALE = 2.0
LABELS = {
    "exp": "weighted_flow_matching:wrapper=exp",
    "order 1": "weighted_flow_matching:wrapper=truncated",
    "order 2": "weighted_flow_matching:wrapper=truncated,order=2",
}


def make(setting: str, trained: Mapping[str, Shown] | None) -> Result:
    """Panels a-c, the same in both settings; trained None: the exact laws alone."""

    problem = load_problem("note_1d")
    nft = compare(problem, problem.nft_field(2 / SCALE), SCALE)
    figure, panels = subplots(1, 3, figsize=(10.5, 3.1), sharey=True)
    numbers: dict[str, Any] = {"x": PLACES.tolist(), "laws": {}, "tv_to_target": {}}
    shown_networks: dict[str, dict[str, object]] = {}
    shown = [nft.law.density, *(t.density for t in nft.targets.values())]
    for axes, letter, (name, wrapper) in zip(
        panels, "abc", note_wrappers(SCALE).items(), strict=True
    ):
        law = flow_on_grid(problem.tilted_field(wrapper), (nft.axis,))
        target = nft.targets[name]
        tv = grid_distances(law, target)["TV"].value
        network = None if trained is None else trained[LABELS[name]]
        overlay(axes, nft.axis, law.density, network, "Φ-weighted")
        if network is not None:
            shown_networks[LABELS[name]] = network.numbers
        axes.plot(
            nft.axis, target.density, color=ORANGE, ls=":", lw=2.2,
            label=f"target (TV to the law {tv:.0e})",
        )  # fmt: skip
        axes.plot(
            nft.axis, nft.law.density, color=VERMILION, ls="--", lw=1.2,
            label=f"NFT (TV {nft.distances[name]['TV']:.3f})",
        )  # fmt: skip
        axes.set(
            title=f"({letter}) Φ = {wrapper.label}",
            xlabel="x",
            xlim=window(nft.axis, shown),
            ylim=(0, 1.75 * max(s.max() for s in shown)),
        )
        axes.legend(fontsize=8, loc="upper left")
        numbers["laws"][name] = sampled(nft.axis, law.density)
        numbers["tv_to_target"][name] = tv
    panels[0].set_ylabel("density")
    return Result(figure, numbers, shown_networks)
