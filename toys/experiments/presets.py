"""Named selections of runs: what the figures show, and every method on the named problems."""

from __future__ import annotations

from toys.training.config import RunConfig
from toys.training.defaults import LINE, PLANE

FIGURE_PROBLEM = "note_1d"
# In the plane the share of the distance is harder to reach: more rows and steps.
PLANE_BUDGET = {"steps": 3000, "batch": 4096}
PLANE_BUDGETS = {
    "flow_matching": {"steps": 6000, "batch": 4096},
    "adjoint_matching": {"steps": 1500},
    "ddpo": {"steps": 1500},
}


def methods_at(scale: float, bounded: bool) -> list[str]:
    """Every method, aimed at the tilt exp(scale r); NFT where the reward lies in [0, 1]."""
    return [
        "flow_matching",
        *([f"nft:nft_beta={2 / scale:.12g}"] if bounded else []),
        f"weighted_flow_matching:scale={scale:g}",
        f"tilt_matching:kind=explicit,scale={scale:g}",
        f"tilt_matching:kind=implicit,scale={scale:g}",
        f"tilt_matching:kind=weighted,scale={scale:g}",
        f"adjoint_matching:scale={scale:g}",
        f"ddpo:kl_weight={1 / scale:.12g}",
    ]


def figures() -> list[RunConfig]:
    """What the figures show: every method, and the note's three weightings, on the note's case."""
    texts = methods_at(2.0, bounded=True)
    texts += [f"weighted_flow_matching:wrapper=truncated,order={n},scale=2" for n in (1, 2)]
    return [RunConfig.checked(method=text, problem=FIGURE_PROBLEM) for text in texts]


def toys() -> list[RunConfig]:
    """Every method on every named problem on the line and in the plane that it allows."""
    found = []
    for name in LINE + PLANE:
        problem = RunConfig(method="flow_matching", problem=name).parsed_problem
        low, high = problem.reward.bounds()
        for text in methods_at(problem.scale, bounded=low >= 0 and high <= 1):
            kind = text.partition(":")[0]
            budget = PLANE_BUDGETS.get(kind, PLANE_BUDGET) if name in PLANE else {}
            found.append(RunConfig.checked(method=text, problem=name, **budget))
    return found


ONLINE_PROBLEM = "guided_1d"
ONLINE_BETA, ONLINE_EPOCHS, EPOCH_STEPS = 2.0, 24, 100
# Options of online NFT beside nft_beta; a penalty kl pulls towards a total tilt of 2 nft_beta / kl.
ONLINE = {
    "hard copy": "",
    "EMA 0.75": "old_decay=0.75",
    "anchored, tilt 2": "kl_weight=2",
    "anchored, tilt 8": "kl_weight=0.5",
    "anchored to guided, tilt 8": "kl_weight=0.5,anchor=guided",
}


def online() -> list[RunConfig]:
    """Online NFT over epochs in five ways, a network kept after each (figure reward_hacking)."""
    common = f"nft:nft_beta={ONLINE_BETA:g},refresh_every={EPOCH_STEPS},pool=4096"
    return [
        RunConfig.checked(
            method=",".join(filter(None, (common, text))), problem=ONLINE_PROBLEM,
            steps=ONLINE_EPOCHS * EPOCH_STEPS, batch=1024, snapshots=ONLINE_EPOCHS,
        )
        for text in ONLINE.values()
    ]  # fmt: skip


def control() -> list[RunConfig]:
    """The adjoint family and DDPO at one budget of evaluations, and the other schedules."""
    from toys.experiments.control import METHODS, PROBLEMS, ControlPlan
    from toys.experiments.schedules import SchedulesPlan

    plan = ControlPlan()
    return [
        *(plan.config(method, problem) for problem in PROBLEMS for method in METHODS),
        *SchedulesPlan().configs().values(),
    ]


PRESETS = {"figures": figures, "toys": toys, "online": online, "control": control}
