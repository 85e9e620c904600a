"""Named selections of runs: what the figures show, and every method on the named problems."""

from __future__ import annotations

from toys.config import RunConfig

FIGURE_PROBLEM = "note_1d"
LINE = ("note_1d", "bumps_1d", "linear_1d", "quadratic_1d")
PLANE = ("bump_2d", "linear_2d", "quadratic_2d")
# In the plane the share of the distance is harder to reach: more rows and steps.
PLANE_BUDGET = {"steps": 3000, "batch": 4096}
PLANE_SCRATCH_BUDGET = {"steps": 6000, "batch": 4096}
PLANE_CHAIN_BUDGET = {"steps": 1500}


def methods_at(scale: float, bounded: bool) -> list[str]:
    """Every method, aimed at the tilt exp(scale r); NFT where the reward lies in [0, 1]."""
    matching = [
        f"weighted_flow_matching:scale={scale:g}",
        f"tilt_matching:kind=explicit,scale={scale:g}",
        f"tilt_matching:kind=implicit,scale={scale:g}",
        f"tilt_matching:kind=weighted,scale={scale:g}",
    ]
    chains = [f"adjoint_matching:scale={scale:g}", f"ddpo:kl_weight={1 / scale:.12g}"]
    nft = [f"nft:nft_beta={2 / scale:.12g}"] if bounded else []
    return ["flow_matching", *nft, *matching, *chains]


def figures() -> list[RunConfig]:
    """What the figures show: every method, and the note's three weightings, on the note's case."""
    scale = 2.0
    texts = methods_at(scale, bounded=True)
    texts += [f"weighted_flow_matching:wrapper=truncated,order={n},scale={scale:g}" for n in (1, 2)]
    return [RunConfig.checked(method=text, problem=FIGURE_PROBLEM) for text in texts]


def toys() -> list[RunConfig]:
    """Every method on every named problem on the line and in the plane that it allows."""
    found = []
    for name in LINE + PLANE:
        problem = RunConfig(method="flow_matching", problem=name).parsed_problem
        low, high = problem.reward.bounds()
        for text in methods_at(problem.scale, bounded=low >= 0 and high <= 1):
            budget: dict[str, int] = {}
            if name in PLANE:
                chain = text.startswith(("adjoint_matching", "ddpo"))
                budget = PLANE_CHAIN_BUDGET if chain else PLANE_BUDGET
                budget = PLANE_SCRATCH_BUDGET if text == "flow_matching" else budget
            found.append(RunConfig.checked(method=text, problem=name, **budget))
    return found


PRESETS = {"figures": figures, "toys": toys}
