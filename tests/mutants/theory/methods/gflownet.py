"""Mistakes in the GFlowNet methods: nabla-DB, detailed balance, trajectory balance."""

from __future__ import annotations

import torch

from tests.mutants.theory.methods.mutants import (
    LINE,
    MANY,
    Mutant,
    batch,
    edited,
    options,
    part,
)
from theory.methods.gflownet.priors import Pretrained

SHORT = "steps=4,sigma_end=0.1"
NABLA = f"residual_nabla_db:{SHORT}"
HELD = f"residual_nabla_db:{SHORT},held=true,look_ahead=off"
AHEAD = f"residual_nabla_db:{SHORT},held=true,look_ahead=one"
PLAIN_NABLA = f"nabla_db:{SHORT},held=true"
SECOND = f"residual_nabla_db:{SHORT},second_order=true,look_ahead=off"
TWO_WAYS = f"residual_nabla_db:{SHORT},bidirectional=true"
SMOOTH = f"residual_nabla_db:{SHORT},held=true,smoothing=0.8"
FEW = f"residual_nabla_db:{SHORT},subset=2"
ANCHORED = f"residual_nabla_db:{SHORT},held=true,anchor_weight=5,anchor=base"
BALANCE = f"residual_db:{SHORT}"
HELD_BALANCE = f"residual_db:{SHORT},held=true,look_ahead=off"
DAG = f"dag_db:{SHORT},held=true"
RELATIVE = f"relative_trajectory_balance:{SHORT}"
ALONE = f"trajectory_balance:{SHORT}"
STRONG = f"relative_trajectory_balance:{SHORT},prior=1.6"


def scaled(entry, factor):
    """A batch with an entry times a number."""
    return batch(**{entry: lambda m, b: factor * b[entry]})


def flows(change):
    """The flow at both ends, and what is left at the end: change(here, after, left)."""
    return part(flows=lambda whole, self, *given: change(*whole(*given)))


def behind(change):
    """The kernels' scores in X_k, less the prior's: change(scores)."""
    return part(scores=lambda whole, self, *given: revised(whole(*given), change))


def revised(scores, change):
    return scores._replace(before=change(scores.before))


def before(b, name="prior_before"):
    return torch.cat([b[name][:, 1:], b[name][:, -1:]], 1)


def late_kernels_less(whole, self, terms):
    return whole(terms * torch.linspace(1.0, 0.02, terms.shape[1]).to(terms))


MUTANTS = {
    # --- nabla-DB
    "nabla: reward's sign": Mutant(HELD, LINE, scaled("terminal", -1.0)),
    "nabla: without scale": Mutant(HELD, LINE, scaled("terminal", 0.5)),
    "nabla: without the prior ahead": Mutant(HELD, LINE, scaled("prior_after", 0.0)),
    "nabla: without the prior behind": Mutant(HELD, LINE, scaled("prior_before", 0.0)),
    "nabla: prior behind of the next kernel": Mutant(
        HELD, LINE, batch(prior_before=lambda m, b: before(b))
    ),
    "nabla: flow's ends swapped": Mutant(HELD, LINE, flows(lambda h, a, left: (a, h, left))),
    "nabla: flow's sign behind": Mutant(HELD, LINE, flows(lambda h, a, left: (-h, a, left))),
    "nabla: flow not held": Mutant(HELD, LINE, options("loss", held=lambda m: False)),
    "nabla: flow held": Mutant(NABLA, LINE, options("loss", held=lambda m: True)),
    "nabla: late kernels weigh less": Mutant(NABLA, LINE, part(total=late_kernels_less), MANY),
    "nabla: no reverse loss": Mutant(NABLA, LINE, options("loss", w_backward=lambda m: 0.25), MANY),
    "nabla: half of what is ahead": Mutant(AHEAD, LINE, scaled("ahead_here", 0.5)),
    "nabla: nothing ahead of the next state": Mutant(AHEAD, LINE, scaled("ahead_after", 0.0)),
    "nabla: second order forgotten": Mutant(
        SECOND, LINE, options("loss", second_order=lambda m: False), MANY
    ),
    "nabla: unsmoothed": Mutant(SMOOTH, LINE, options("collect", smoothing=lambda m: 0.0), MANY),
    "nabla: stretches of one weight": Mutant(
        FEW, LINE, part(total=lambda whole, self, terms: terms.sum(1)), MANY
    ),
    "nabla: anchor dropped": Mutant(
        ANCHORED, LINE, part(penalty=lambda whole, self, given, v: torch.zeros_like(v[..., 0]))
    ),
    "nabla: Jacobian's sign": Mutant(TWO_WAYS, LINE, behind(torch.neg)),
    "nabla: a kernel's own score behind": Mutant(
        TWO_WAYS, LINE, behind(lambda score: score.roll(1, 1))
    ),
    "nabla_db: the base for the noising": Mutant(
        PLAIN_NABLA, LINE, part(against=lambda whole, self: Pretrained())
    ),
    "nabla_db: noising's sign ahead": Mutant(PLAIN_NABLA, LINE, scaled("prior_after", -1.0)),
    "nabla_db: without the noising behind": Mutant(PLAIN_NABLA, LINE, scaled("prior_before", 0.0)),
    # --- detailed balance
    "db: reward's sign": Mutant(HELD_BALANCE, LINE, scaled("log_reward", -1.0)),
    "db: without the prior": Mutant(HELD_BALANCE, LINE, scaled("prior", 0.0)),
    # On a held flow, which is a baseline to the policy, nothing would be learnt: no gradient.
    "db: without log Ft(x), as (20) is printed": edited(
        BALANCE, LINE, "log_ratio + here - after", "log_ratio + 0 * here - after"
    ),
    "db: flow's ends swapped": edited(
        HELD_BALANCE, LINE, "log_ratio + here - after", "log_ratio + after - here"
    ),
    "db: flow not held": Mutant(HELD_BALANCE, LINE, options("loss", held=lambda m: False), MANY),
    "db: flow held": Mutant(BALANCE, LINE, options("loss", held=lambda m: True), MANY),
    "db: half of what is ahead": Mutant(BALANCE, LINE, scaled("ahead_here", 0.5)),
    "dag_db: the base for the noising": Mutant(
        DAG, LINE, part(against=lambda whole, self: Pretrained())
    ),
    # --- trajectory balance
    "tb: log Z's sign": edited(RELATIVE, LINE, "left = log_z + log", "left = -log_z + log"),
    "tb: mean over steps": edited(RELATIVE, LINE, "log_ratio.sum(1)", "log_ratio.mean(1)"),
    "tb: without scale": Mutant(RELATIVE, LINE, scaled("log_reward", 0.5)),
    "tb: without the prior's strength": Mutant(STRONG, LINE, scaled("prior", 1 / 1.6)),
    "tb: without the start": Mutant(
        ALONE, LINE, part(log_start=lambda whole, self, walk: torch.zeros_like(walk.x[:, 0, 0]))
    ),
    "tb: tempered": Mutant(RELATIVE, LINE, options("collect", temper=lambda m: 1.5), MANY),
    "tb: from samples back": Mutant(RELATIVE, LINE, options("collect", backward=lambda m: 0.8)),
}
