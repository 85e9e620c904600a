"""`python -m theory recipe`: what training with the released DiffusionNFT code will do."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from theory.common.checks import check_order, check_positive
from theory.common.console import refuse_unused
from theory.methods.matching.reward_mapping import CLIP
from theory.problems.problem import Problem, load_problem
from theory.released import names
from theory.released.forecast import Exact, Forecast, Row, Settings, exact, forecast, sampling_error
from theory.released.penalty import NORMALISERS
from theory.released.reward_files import read_rewards
from theory.released.schedule import schedule
from theory.released.sources import Rewards, SampledRewards, rewards_of
from theory.released.text import print_forecast

INCONCLUSIVE = 1  # exit status where the rewards do not reach to the last epoch
HELD_BACK = 0.1  # share of the tilt from which the penalty's average over time is rough
CLIPPED = 0.98
MOST_ERROR = 0.1  # of E R in base standard deviations, left by the samples
MOST_EPOCHS = 100_000

ASSUMES = (
    "the student reaches its optimum every epoch (--reach takes another share)",
    "small steps: an epoch tilts the law by exp(lam R) to first order (ledger L8, Z5)",
    "lam follows the batch's std of R, which falls as the law concentrates",
    "every prompt in equal number, in large batches; E over the other rows of a prompt (ledger N1)",
    "the KL term's effect on the law averaged over time as for Gaussian data (ledger N3)",
    "a normaliser that is one number for both branches and all samples (high dimension)",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `recipe`."""
    parser.description = __doc__
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--problem", help="a named problem, or a path to a .toml file")
    source.add_argument(
        "--rewards", type=Path, metavar="FILE",
        help="rewards of your own base samples: .csv or .jsonl (reward, and prompt if there are "
        "several), .txt or .npy",
    )  # fmt: skip
    parser.add_argument("--epochs", type=int, required=True)
    for knob, kind, words in (
        (names.NFT_BETA, float, "the mixing strength (1)"),
        (names.KL_WEIGHT, float, "of |v - v_ref|² (1e-4)"),
        (names.ADV_CLIP_MAX, float, f"the clip of the advantage ({CLIP:g})"),
        (names.EMA, str, (
         "decay of the old copy at step k: none, copy or 0: 0; half, linear_to_0_5 or 1: min(0.001 "
         "k, 0.5); late, delayed_linear_to_0_999 or 2: min(0.0075 (k - 75), 0.999) after step 75; "
         "constant (half)")),
    ):  # fmt: skip
        parser.add_argument(
            *names.flags(knob), dest=knob, action=_Named, default=[], type=kind, metavar="X",
            help=words,
        )  # fmt: skip
    parser.add_argument(
        "--beta", type=float, help="nft_beta or kl_weight, by --trainer: refused without one"
    )
    parser.add_argument("--trainer", help=f"whose config --beta stands in: {', '.join(names.BETA)}")
    parser.add_argument("--decay", type=float, help="of --ema constant, in [0, 1)")
    parser.add_argument(
        "--steps-per-epoch",
        type=int,
        default=1,
        help="optimiser steps; k counts them (%(default)s)",
    )
    parser.add_argument("--group", type=int, default=24, help="rows of a prompt (%(default)s)")
    parser.add_argument(
        "--adaptive",
        choices=NORMALISERS,
        help="the loss's normaliser, in the KL term's weight (x1)",
    )
    parser.add_argument(
        "--reach", type=float, default=1.0,
        help="share of the way to its optimum that the student goes in an epoch (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--data-std", type=float, help="of the samples, with --rewards (1)")
    parser.add_argument("--reward-column", help="of a .csv or .jsonl file (reward)")
    parser.add_argument("--prompt-column", help="of a .csv or .jsonl file (prompt, if there)")
    parser.add_argument(
        "--no-exact", action="store_true", help="leave out the exact recursion (d = 1)"
    )
    parser.add_argument("--json", action="store_true", help="print data instead of a table")


class _Named(argparse.Action):
    """Keeps (flag, value) of every use: a knob has several names."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (option_string, values)])


def _read(options: argparse.Namespace) -> list[str]:
    """Put every knob's value in the place of what was given; returns how it was read."""
    readings = {
        knob: names.read(getattr(options, knob), knob, default, options.trainer, options.beta)
        for knob, default in (
            (names.NFT_BETA, 1.0), (names.KL_WEIGHT, 1e-4), (names.ADV_CLIP_MAX, CLIP),
            (names.EMA, "half"),
        )
    }  # fmt: skip
    for knob, reading in readings.items():
        setattr(options, knob, reading.value)
    return [reading.text for reading in readings.values() if reading.text]


def run(options: argparse.Namespace) -> int:
    """The forecast; returns 1 where the rewards do not reach to the last epoch.

    Raises:
        ValueError: options that contradict, are out of range or change nothing; a bad file.
    """
    check_order("--epochs", options.epochs, 1, MOST_EPOCHS)
    read_as = _read(options)
    check_positive("adv_clip_max", options.adv_clip_max)
    _refuse_unused(options)
    rule = schedule(options.ema, options.decay)
    rewards, problem = _source(options)
    settings = Settings(
        options.nft_beta, rule, options.kl_weight, options.adaptive or "x1", options.group,
        options.steps_per_epoch, options.reach, rewards.data_std or 1.0, options.adv_clip_max,
    )  # fmt: skip
    found = forecast(settings, rewards, options.epochs)
    errors = None
    if isinstance(rewards, SampledRewards) and found.last.epoch:
        errors = sampling_error(settings, rewards, found)
    law, why_not = _exact(options, settings, problem, found)
    data = _as_json(options, found, law, why_not, errors) | {"read_as": read_as}
    if options.json:
        print(json.dumps(data, indent=2, allow_nan=False))
    else:
        print_forecast(found, law, why_not, data)
    return 0 if data["conclusive"] else INCONCLUSIVE


def _refuse_unused(options: argparse.Namespace) -> None:
    of_file = options.rewards is not None
    refuse_unused((
        ("--adaptive", options.adaptive, options.kl_weight > 0, "--kl-weight > 0"),
        ("--data-std", options.data_std, of_file and options.kl_weight > 0,
         "--rewards and --kl-weight > 0 (a problem has its own)"),
        ("--reward-column", options.reward_column, of_file, "--rewards"),
        ("--prompt-column", options.prompt_column, of_file, "--rewards"),
        ("--no-exact", options.no_exact, not of_file, "--problem"),
        ("--trainer", options.trainer, options.beta is not None, "--beta"),
    ))  # fmt: skip


def _source(options: argparse.Namespace) -> tuple[Rewards, Problem | None]:
    if options.rewards is None:
        problem = load_problem(options.problem)
        return rewards_of(problem, options.adv_clip_max), problem
    if options.data_std is not None:
        check_positive("--data-std", options.data_std)
    rewards = read_rewards(
        options.rewards, options.reward_column, options.prompt_column, data_std=options.data_std
    )
    return replace(rewards, clip=options.adv_clip_max), None


def _exact(
    options: argparse.Namespace, settings: Settings, problem: Problem | None, found: Forecast
) -> tuple[Exact | None, str]:
    """The exact recursion's law, or why there is none."""
    if problem is None:
        return None, "only rewards are known, not the law that they come from"
    if options.no_exact:
        return None, "--no-exact"
    if problem.dim != 1:
        return None, f"d = {problem.dim}: it is carried where d = 1"
    if found.last.epoch == 0:
        return None, "the forecast has no epoch"
    try:
        return exact(settings, problem, found), ""
    except ValueError as error:
        return None, str(error)


# --- as data


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _row(found: Forecast, row: Row) -> dict[str, Any]:
    first, here = found.rows[0].rewards, row.rewards
    return {
        "epoch": row.epoch, "full_updates": row.updates, "tilt": row.tilt,
        "tilt_per_std": row.tilt * first.std, "reward": here.mean, "gain_in_std": found.gain(row),
        "std": here.std, "kl_to_base": here.kl, "clip_share": here.clip, "law_std": here.spread,
        "effective_sample_size": here.ess, "carriers": here.carriers,
    }  # fmt: skip


def _as_json(
    options: argparse.Namespace,
    found: Forecast,
    law: Exact | None,
    why_not: str,
    errors: tuple[float, float] | None,
) -> dict[str, Any]:
    settings, base = found.settings, found.rows[0].rewards
    stopped = found.stopped
    if errors is not None and not stopped and not errors[1] <= MOST_ERROR * base.std:
        stopped = (
            f"epoch {found.last.epoch}: the samples leave E R uncertain by "
            f"{errors[1] / base.std:.2g} std; needed is {MOST_ERROR:g}"
        )
    return {
        "recipe": {
            "nft_beta": settings.nft_beta, "epochs": found.epochs, "kl_weight": settings.kl_weight,
            "adv_clip_max": settings.adv_clip_max,
            "ema": options.ema, "schedule": asdict(settings.schedule), "group": settings.group,
            "steps_per_epoch": settings.steps, "normaliser": settings.normaliser,
            "reach": settings.reach, "data_std": settings.data_std,
        },
        "source": options.problem or str(options.rewards),
        "step_at_base": settings.step(base.std, base.clip),
        "step_at_base_per_std": settings.step(base.std, base.clip) * base.std,
        "within_prompts_std": base.within,
        "conclusive": not stopped, "stopped": stopped,
        "standard_error": None if errors is None else {
            "tilt": _finite(errors[0]), "reward": _finite(errors[1]),
        },
        "tilt_at_fixed_spread": found.first_order,
        "limit_at_fixed_spread": _finite(found.limit_at_base), "limit": _finite(found.limit),
        "limit_searched_to": _finite(found.searched), "held_back": _held_back(found),
        "end": _row(found, found.last), "rows": [_row(found, row) for row in found.rows],
        "exact": None if law is None else asdict(law), "no_exact": why_not,
        "assumes": list(ASSUMES), "warnings": _warnings(found),
    }  # fmt: skip


def _held_back(found: Forecast) -> float:
    """The share of the tilt that the penalty takes, at a fixed spread."""
    settings, base = found.settings, found.rows[0].rewards
    if not settings.kl_weight or settings.reach < 1:
        return 0.0
    return 1 - found.first_order / settings.schedule.tilt(
        found.epochs, settings.step(base.std, base.clip), 1.0, settings.steps
    )


def _warnings(found: Forecast) -> list[str]:
    settings, last, first = found.settings, found.last.rewards, found.rows[0].rewards
    warnings = []
    step = settings.step(first.std, first.clip) * first.std
    if step > 0.5:
        warnings.append(
            f"an epoch's step is {step:.3g} per std of R: not small, so that exp(lam R) is rough"
        )
    if _held_back(found) > HELD_BACK:
        warnings.append(
            f"the KL term takes {100 * _held_back(found):.0f} % of the tilt, most of it at late "
            "times: the law is no longer a tilt by R, and the forecast of E R is too high"
        )
    if last.clip is not None and last.clip < CLIPPED:
        warnings.append(
            f"the clip at {settings.adv_clip_max:g} takes {100 * (1 - last.clip):.1f} % of the "
            "last step"
        )
    if found.last.epoch > 1 and last.std < 0.1 * first.std:
        warnings.append(
            f"the std of R has fallen to {last.std / first.std:.2g} of the base's: the mapping "
            "divides by it, so that the tilt runs away"
        )
    return warnings
