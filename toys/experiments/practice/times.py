"""NFT trained at some times of a 10-step grid only (N6) against one trained at all times.

Each is sampled in several ways, and compared with the same samplers' laws of the exact optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theory.common.checks import check_order, check_positive
from theory.fields.mixture import ModelField
from theory.released.times import (
    MapLaw,
    Sampler,
    laws,
    shifted_times,
    total_variation,
    uniform_times,
)
from toys.training.config import RunConfig
from toys.training.runs import Run


@dataclass(frozen=True)
class TimesPlan:
    """NFT on the note's problem at nft_beta = 1; 0: the method's own budget."""

    problem: str = "note_1d"
    nft_beta: float = 1.0
    count: int = 10
    steps: int = 0
    batch: int = 0
    width: int = 64
    points: int = 401

    def __post_init__(self) -> None:
        check_positive("nft_beta", self.nft_beta)
        check_order("count", self.count, 3)
        check_order("points", self.points, 16)

    @property
    def grid(self) -> tuple[float, ...]:
        return uniform_times(self.count)

    def configs(self) -> dict[str, RunConfig]:
        """What is compared; "all times" is what the others are compared with, and its second seed
        tells by how much networks differ anyway."""
        asked: dict[str, tuple[int, tuple[float, ...]]] = {
            "all times": (0, ()), "all times, another seed": (1, ()),
            "the grid's": (0, self.grid),
            "without the one nearest to the data": (0, self.grid[:-1]),
            "without the one nearest to the noise": (0, self.grid[1:]),
        }  # fmt: skip
        return {
            name: RunConfig.checked(
                method=f"nft:nft_beta={self.nft_beta:g}", problem=self.problem, seed=seed,
                times=times, steps=self.steps, batch=self.batch, width=self.width,
            )
            for name, (seed, times) in asked.items()
        }  # fmt: skip

    def samplers(self) -> tuple[Sampler, ...]:
        """The grid's own first."""
        fine = 4 * self.count
        return (
            Sampler("euler", self.grid), Sampler("euler", uniform_times(fine)),
            Sampler("heun", self.grid), Sampler("dpm2", shifted_times(fine)),
            Sampler("ode", uniform_times(24)),
        )  # fmt: skip


def measure_times(out: Path, plan: TimesPlan) -> dict[str, Any]:
    """Every network under every sampler: TV to the network trained at all times and to the exact
    optimum, each under the same sampler, and the change of mean reward as a share of what
    fine-tuning gains."""
    configs = plan.configs()
    problem = configs["all times"].parsed_problem
    optimum = problem.nft_field(plan.nft_beta)
    rows = []
    for sampler in plan.samplers():

        def law(field: Any, sampler: Sampler = sampler) -> MapLaw:
            return laws(sampler, field, points=plan.points)[0]

        base, exact = law(problem.base_field), law(optimum)
        trained = {name: law(ModelField(Run(out, c).network(), 1)) for name, c in configs.items()}
        whole = trained["all times"]
        gain = whole.mean_reward(problem.reward) - base.mean_reward(problem.reward)
        rows += [
            {
                "sampler": sampler.label, "trained at": name,
                "mean reward": found.mean_reward(problem.reward),
                "change of the gain": (
                    found.mean_reward(problem.reward) - whole.mean_reward(problem.reward)
                ) / gain,
                "TV to all times": total_variation(whole, found),
                "TV to the optimum": total_variation(exact, found),
            }
            for name, found in trained.items()
        ]  # fmt: skip
    return {"problem": plan.problem, "nft_beta": plan.nft_beta, "rows": rows}
