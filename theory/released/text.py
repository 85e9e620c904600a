"""A forecast as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from theory.common.console import console
from theory.released.forecast import Exact, Forecast

SHOWN = (0, 1, 2, 5)  # and their multiples by ten


def _shown(epochs: int) -> Sequence[int]:
    return sorted(e for e in {e * 10**k for e in SHOWN for k in range(6)} | {epochs} if e <= epochs)


def print_forecast(
    found: Forecast,
    law: Exact | None,
    why_not: str,
    data: dict[str, Any],
) -> None:
    """The table, and what is to be said about it; data: what --json prints."""
    out = console(128)

    def say(text: str, style: str | None = None) -> None:
        out.print(text, highlight=False, markup=False, style=style)

    settings, base, end = found.settings, found.rows[0].rewards, found.last
    sampled = base.ess is not None
    for line in data["read_as"]:
        say(f"read: {line}")
    say(
        f"{data['source']}: E R = {base.mean:.4g}, std {base.std:.4g} over the batch, "
        f"{base.within:.4g} within a prompt"
    )
    say(
        f"a step of the tilt at first: {data['step_at_base']:.4g} per reward, "
        f"{data['step_at_base_per_std']:.4g} per std (1/(adv_clip_max nft_beta) = "
        f"{1 / (settings.adv_clip_max * settings.nft_beta):.4g})"
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
    out.print(table)
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
    for line in data["assumes"]:
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
