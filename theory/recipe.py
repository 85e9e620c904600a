"""`python -m theory recipe`: what a recipe of the released DiffusionNFT code will do."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from theory.checks import check_order, check_positive
from theory.problem import Problem, load_problem
from theory.released.forecast import Exact, Forecast, Recipe, Row, exact, forecast, sampling_error
from theory.released.penalty import NORMALISERS
from theory.released.reward_files import read_rewards
from theory.released.schedule import NAMES, schedule
from theory.released.sources import Rewards, SampledRewards, rewards_of

INCONCLUSIVE = 1  # exit status where the rewards do not reach to the last epoch
HELD_BACK = 0.1  # share of the tilt from which the penalty's average over time is rough
CLIPPED = 0.98
MOST_ERROR = 0.1  # of E R in base standard deviations, left by the samples
SHOWN = (0, 1, 2, 5)  # and their multiples by ten
MOST_EPOCHS = 100_000

ASSUMES = (
    "the student reaches its optimum every epoch (--reach takes another share)",
    "small steps: an epoch tilts the law by exp(lam R) to first order (ledger L8, Z5)",
    "lam follows the batch's std of R, which falls as the law concentrates",
    "every prompt in equal number, in large batches; E over the other rows of a prompt (ledger N1)",
    "the KL term's effect on the law averaged over time as for Gaussian data (ledger N3)",
    "a normaliser that is one number for both branches and all samples (high dimension)",
)


def add_parser(commands: Any) -> None:
    """The sub-command's options."""
    recipe = commands.add_parser(
        "recipe",
        help="forecast a recipe of the released NFT code: tilt, reward, diversity",
        description=__doc__,
    )
    source = recipe.add_mutually_exclusive_group(required=True)
    source.add_argument("--problem", help="a named problem, or a path to a .toml file")
    source.add_argument(
        "--rewards", type=Path, metavar="FILE",
        help="rewards of your own base samples: .csv or .jsonl (reward, and prompt if there are "
        "several), .txt or .npy",
    )  # fmt: skip
    recipe.add_argument("--epochs", type=int, required=True)
    recipe.add_argument("--nft-beta", type=float, default=1.0, help="(%(default)s)")
    recipe.add_argument("--kl-weight", type=float, default=1e-4, help="(%(default)s)")
    recipe.add_argument(
        "--ema", choices=NAMES, default="half",
        help="decay of the old copy at step k: none 0; half min(0.001 k, 0.5); late "
        "min(0.0075 (k - 75), 0.999) after step 75; constant (%(default)s)",
    )  # fmt: skip
    recipe.add_argument("--decay", type=float, help="of --ema constant, in [0, 1)")
    recipe.add_argument(
        "--steps-per-epoch",
        type=int,
        default=1,
        help="optimiser steps; k counts them (%(default)s)",
    )
    recipe.add_argument("--group", type=int, default=24, help="rows of a prompt (%(default)s)")
    recipe.add_argument(
        "--adaptive",
        choices=NORMALISERS,
        help="the loss's normaliser, in the KL term's weight (x1)",
    )
    recipe.add_argument(
        "--reach", type=float, default=1.0,
        help="share of the way to its optimum that the student goes in an epoch (%(default)s)",
    )  # fmt: skip
    recipe.add_argument("--data-std", type=float, help="of the samples, with --rewards (1)")
    recipe.add_argument("--reward-column", help="of a .csv or .jsonl file (reward)")
    recipe.add_argument("--prompt-column", help="of a .csv or .jsonl file (prompt, if there)")
    recipe.add_argument(
        "--no-exact", action="store_true", help="leave out the exact recursion (d = 1)"
    )
    recipe.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """The forecast; returns 1 where the rewards do not reach to the last epoch.

    Raises:
        ValueError: options that contradict, are out of range or change nothing; a bad file.
    """
    check_order("--epochs", options.epochs, 1, MOST_EPOCHS)
    _refuse_unused(options)
    rule = schedule(options.ema, options.decay)
    rewards, problem = _source(options)
    recipe = Recipe(
        options.nft_beta, rule, options.kl_weight, options.adaptive or "x1", options.group,
        options.steps_per_epoch, options.reach, rewards.data_std or 1.0,
    )  # fmt: skip
    found = forecast(recipe, rewards, options.epochs)
    errors = None
    if isinstance(rewards, SampledRewards) and found.last.epoch:
        errors = sampling_error(recipe, rewards, found)
    law, why_not = _exact(options, recipe, problem, found)
    data = _as_json(options, found, law, why_not, errors)
    if options.json:
        print(json.dumps(data, indent=2, allow_nan=False))
    else:
        _print(options, found, law, why_not, data)
    return 0 if data["conclusive"] else INCONCLUSIVE


def _refuse_unused(options: argparse.Namespace) -> None:
    of_file = options.rewards is not None
    unused = (
        ("--adaptive", options.adaptive, options.kl_weight > 0, "--kl-weight > 0"),
        ("--data-std", options.data_std, of_file and options.kl_weight > 0,
         "--rewards and --kl-weight > 0 (a problem has its own)"),
        ("--reward-column", options.reward_column, of_file, "--rewards"),
        ("--prompt-column", options.prompt_column, of_file, "--rewards"),
        ("--no-exact", options.no_exact or None, not of_file, "--problem"),
    )  # fmt: skip
    for name, value, is_used, where in unused:
        if value is not None and not is_used:
            raise ValueError(f"{name} = {value!r} changes nothing here: allowed with {where}")


def _source(options: argparse.Namespace) -> tuple[Rewards, Problem | None]:
    if options.rewards is None:
        problem = load_problem(options.problem)
        return rewards_of(problem), problem
    if options.data_std is not None:
        check_positive("--data-std", options.data_std)
    columns = options.reward_column, options.prompt_column
    return read_rewards(options.rewards, *columns, data_std=options.data_std), None


def _exact(
    options: argparse.Namespace, recipe: Recipe, problem: Problem | None, found: Forecast
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
        return exact(recipe, problem, found), ""
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
    recipe, base = found.recipe, found.rows[0].rewards
    stopped = found.stopped
    if errors is not None and not stopped and not errors[1] <= MOST_ERROR * base.std:
        stopped = (
            f"epoch {found.last.epoch}: the samples leave E R uncertain by "
            f"{errors[1] / base.std:.2g} std; needed is {MOST_ERROR:g}"
        )
    return {
        "recipe": {
            "nft_beta": recipe.nft_beta, "epochs": found.epochs, "kl_weight": recipe.kl_weight,
            "ema": options.ema, "schedule": asdict(recipe.schedule), "group": recipe.group,
            "steps_per_epoch": recipe.steps, "normaliser": recipe.normaliser,
            "reach": recipe.reach, "data_std": recipe.data_std,
        },
        "source": options.problem or str(options.rewards),
        "step_at_base": recipe.step(base.std, base.clip),
        "step_at_base_per_std": recipe.step(base.std, base.clip) * base.std,
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
    recipe, base = found.recipe, found.rows[0].rewards
    if not recipe.kl_weight or recipe.reach < 1:
        return 0.0
    free = recipe.schedule.tilt(found.epochs, recipe.step(base.std, base.clip), 1.0, recipe.steps)
    return 1 - found.first_order / free


def _warnings(found: Forecast) -> list[str]:
    recipe, last, first = found.recipe, found.last.rewards, found.rows[0].rewards
    warnings = []
    step = recipe.step(first.std, first.clip) * first.std
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
        warnings.append(f"the clip at 5 takes {100 * (1 - last.clip):.1f} % of the last step")
    if found.last.epoch > 1 and last.std < 0.1 * first.std:
        warnings.append(
            f"the std of R has fallen to {last.std / first.std:.2g} of the base's: the mapping "
            "divides by it, so that the tilt runs away"
        )
    return warnings


# --- as text


def _shown(epochs: int) -> Sequence[int]:
    wanted = {e * 10**k for e in SHOWN for k in range(6)} | {epochs}
    return sorted(e for e in wanted if e <= epochs)


def _print(
    options: argparse.Namespace,
    found: Forecast,
    law: Exact | None,
    why_not: str,
    data: dict[str, Any],
) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=128)

    def say(text: str, style: str | None = None) -> None:
        console.print(text, highlight=False, markup=False, style=style)

    recipe, base, end = found.recipe, found.rows[0].rewards, found.last
    sampled = base.ess is not None
    say(
        f"{data['source']}: E R = {base.mean:.4g}, std {base.std:.4g} over the batch, "
        f"{base.within:.4g} within a prompt"
    )
    say(
        f"a step of the tilt at first: {data['step_at_base']:.4g} per reward, "
        f"{data['step_at_base_per_std']:.4g} per std (0.2/nft_beta = {0.2 / recipe.nft_beta:.4g})"
    )
    table = Table(highlight=False)
    names = ["epoch", "full updates", "tilt, 1/reward", "tilt x std", "E R", "gain, std"]
    names += ["std of R", "KL, nats", *(["ESS", "90 % carried by"] if sampled else ["std of X"])]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for epoch in _shown(end.epoch):
        row = found.rows[epoch]
        r = row.rewards
        last = (
            [f"{r.ess:.0f}", f"{100 * (r.carriers or 0):.2g} %"] if r.ess is not None
            else ["" if r.spread is None else f"{r.spread:.4g}"]
        )  # fmt: skip
        table.add_row(
            str(epoch), f"{row.updates:.4g}", f"{row.tilt:.4g}", f"{row.tilt * base.std:.4g}",
            f"{r.mean:.4g}", f"{found.gain(row):.3g}", f"{r.std:.3g}", f"{r.kl:.3g}", *last,
        )  # fmt: skip
    console.print(table)
    errors = data["standard_error"]
    text = (
        f"after {end.epoch} epochs: tilt {end.tilt:.4g} per reward, "
        f"{end.tilt * base.std:.4g} per std; E R = {end.rewards.mean:.4g}"
    )
    if errors is not None and None not in errors.values():
        text += f"; standard errors of the samples {errors['tilt']:.2g} and {errors['reward']:.2g}"
    say(text)
    if not data["conclusive"]:
        say(f"NO CONCLUSION for epoch {found.epochs}: {data['stopped']}", "bold")
    say(
        f"if the spread of R stayed: tilt {found.first_order:.4g} per reward, "
        f"{found.first_order * base.std:.4g} per std after {found.epochs} epochs"
    )
    say(_limit_text(found))
    say(_exact_text(found, law, why_not))
    for warning in data["warnings"]:
        say(f"warning: {warning}", "yellow")
    say("assumes:")
    for line in ASSUMES:
        say(f"- {line}")


def _limit_text(found: Forecast) -> str:
    if found.limit_at_base is None:
        return "limit: none, the tilt grows for ever (no KL term)"
    std = found.rows[0].rewards.std
    text = (
        f"limit of the tilt under the KL term, if the spread of R stayed: "
        f"{found.limit_at_base:.4g} per reward, {found.limit_at_base * std:.4g} per std; "
    )
    if found.limit is not None:
        return text + f"with the spread that it leaves: {found.limit:.4g} per reward"
    return text + (
        f"with the spread that it leaves: none up to {found.searched:.4g}, as far as the rewards "
        "tell"
    )


def _exact_text(found: Forecast, law: Exact | None, why_not: str) -> str:
    if law is None:
        return f"exact recursion: not carried ({why_not})"
    row = found.rows[law.epoch]
    text = (
        f"exact recursion, epoch {law.epoch}: E R = {law.mean:.4g} (forecast "
        f"{row.rewards.mean:.4g}, off by {law.error:+.2g} std), tilt {law.tilt:.4g} "
        f"({row.tilt:.4g}), which explains {100 * law.explained:.3g} % of log(q/p), std of X "
        f"{law.spread:.4g}"
    )
    return text + (f"; no further: {law.stopped}" if law.stopped else "")
