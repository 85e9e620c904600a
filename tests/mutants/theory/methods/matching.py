"""Mistakes in flow matching, NFT, weighted flow matching and tilt matching."""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.mutants.theory.methods.mutants import (
    LINE,
    LINEAR,
    MANY,
    PLANE,
    Mutant,
    batch,
    collected,
    edited,
    options,
    part,
    student,
    value,
)
from theory.methods import square
from theory.tilts.wrappers import Exponential, Power, TruncatedExponential

FM, EXACT = "flow_matching", "flow_matching:target_velocity=exact"
NFT = "nft:nft_beta=0.5"
ANCHORED = "nft:nft_beta=0.5,kl_weight=0.4"
EXP = "weighted_flow_matching:scale=1.5"
CUT = "weighted_flow_matching:wrapper=truncated,order=2,scale=1.5"
FIRST = "weighted_flow_matching:wrapper=truncated"
POWER = "weighted_flow_matching:wrapper=power,exponent=2"
CLIPPED = "weighted_flow_matching:wrapper=clipped,max_weight=3"
EXPLICIT, IMPLICIT = "tilt_matching:kind=explicit", "tilt_matching:kind=implicit,scale=1.5"
WEIGHTED = "tilt_matching:kind=weighted,scale=1.5"


def branches(change):
    """Losses made of NFT's positive and negative branch: change(r, positive, negative)."""

    def made(losses, method, policy, given):
        r = given["r"]
        return change(r, losses(r=torch.ones_like(r)), losses(r=torch.zeros_like(r)))

    return value(made)


def negative_about_zero(losses, method, policy, given):
    r, y = given["r"], given["y"] + given["v_old"]
    positive, negative = losses(r=torch.ones_like(r)), losses(r=torch.zeros_like(r), y=y)
    return r * positive + (1 - r) * negative


def penalty(change):
    """NFT's losses with another penalty: change(penalty, method, v - v_old, batch)."""

    def made(losses, method, policy, given):
        plain = losses(replace(method, kl_weight=0.0))
        move = policy.student(given["x"], given["t"], given["cond"]) - given["v_old"]
        return plain + change(losses() - plain, method, move, given)

    return value(made)


def v0_less_v(policy, given):
    return given["v0"] - policy.student(given["x"], given["t"], given["cond"]).detach()


def tilted_y(sign):
    """Tilt matching's losses with `sign` (v0 - v) added to Y."""

    def made(losses, method, policy, given):
        return losses(y=given["y"] + sign * v0_less_v(policy, given))

    return value(made)


def phi(of):
    return part(phi=lambda whole, self: of(self))


MUTANTS = {
    # flow matching
    "fm: sign of Y": Mutant(FM, LINE, batch(y=lambda m, b: -b["y"])),
    "fm: time reversed": Mutant(FM, LINE, student(lambda v, b, x, t: v(x, 1 - t, None))),
    "fm: exact target at the wrong time": Mutant(
        EXACT, PLANE, collected(lambda p, task, b: {"y": task.base_velocity(b["x"], 1 - b["t"])})
    ),
    # NFT
    "nft: r and 1 - r swapped": Mutant(NFT, LINE, batch(r=lambda m, b: 1 - b["r"])),
    "nft: reward's sign": Mutant(NFT, LINE, batch(r=lambda m, b: -b["r"])),
    "nft: positive branch alone": Mutant(NFT, LINE, branches(lambda r, p, n: r * p)),
    "nft: negative branch unweighted": Mutant(NFT, LINE, branches(lambda r, p, n: r * p + n)),
    "nft: r squared": Mutant(NFT, PLANE, batch(r=lambda m, b: b["r"] ** 2), MANY),
    "nft: nft_beta dropped": Mutant(NFT, LINE, options("loss", nft_beta=lambda m: 1.0)),
    "nft: nft_beta squared": Mutant(NFT, LINE, options("loss", nft_beta=lambda m: m.nft_beta**2)),
    "nft: nft_beta divides": Mutant(NFT, LINE, options("loss", nft_beta=lambda m: 1 / m.nft_beta)),
    "nft: no old velocity in the step": Mutant(
        NFT, LINE, student(lambda v, b, x, t: v(x, t, None) + b["v_old"])
    ),
    "nft: penalty dropped": Mutant(ANCHORED, LINE, options("loss", kl_weight=lambda m: 0.0)),
    "nft: penalty on the step times nft_beta": Mutant(
        ANCHORED,
        LINE,
        penalty(
            lambda own, m, move, b: (
                m.kl_weight * square(b["v_old"] + m.nft_beta * move - b["v_ref"])
            )
        ),
    ),
    "nft: penalty's sign": Mutant(ANCHORED, LINE, penalty(lambda own, m, move, b: -0.1 * own)),
    "nft: two positive branches": Mutant(NFT, LINE, branches(lambda r, p, n: p)),
    "nft: negative branch about zero": Mutant(NFT, LINE, value(negative_about_zero)),
    "nft: old is the student": Mutant(
        NFT, LINE, collected(lambda p, task, b: {"v_old": p.student(b["x"], b["t"], b["cond"])})
    ),
    # weighted flow matching
    "wfm: unweighted": Mutant(EXP, LINE, batch(weight=lambda m, b: torch.ones_like(b["weight"]))),
    "wfm: weight squared": Mutant(EXP, LINE, batch(weight=lambda m, b: b["weight"] ** 2)),
    "wfm: weight less one": Mutant(EXP, LINE, batch(weight=lambda m, b: b["weight"] - 1)),
    "wfm: scale's sign": Mutant(EXP, LINE, phi(lambda m: Exponential(-m.scale))),
    "wfm: scale dropped": Mutant(EXP, LINE, phi(lambda m: Exponential(1.0)), MANY),
    "wfm: order too high": Mutant(
        FIRST, LINE, phi(lambda m: TruncatedExponential(m.scale, m.order + 1)), MANY
    ),
    "wfm: order too low": Mutant(
        CUT, LINE, phi(lambda m: TruncatedExponential(m.scale, m.order - 1)), MANY
    ),
    "wfm: exponent": Mutant(POWER, LINE, phi(lambda m: Power(m.exponent - 1))),
    "wfm: clip forgotten": Mutant(CLIPPED, LINEAR, phi(lambda m: Exponential(m.scale))),
    # tilt matching
    "tm explicit: Y without v0": Mutant(EXPLICIT, LINE, batch(y=lambda m, b: b["y"] + b["v0"])),
    "tm explicit: sign": Mutant(EXPLICIT, LINE, batch(r=lambda m, b: -b["r"])),
    "tm explicit: without v0 outside": Mutant(
        EXPLICIT, LINE, student(lambda v, b, x, t: v(x, t, None) + b["v0"])
    ),
    "tm explicit: scale dropped": Mutant(EXPLICIT, LINE, options("loss", scale=lambda m: 1.0)),
    "tm explicit: v for v0": Mutant(EXPLICIT, LINE, tilted_y(1)),
    "tm implicit: gradient through the target": edited(IMPLICIT, LINE, "v.detach()", "v"),
    "tm implicit: first order": Mutant(
        IMPLICIT, LINE, batch(r=lambda m, b: (m.scale * b["r"]).log1p() / m.scale)
    ),
    "tm implicit: exp for exp - 1": Mutant(
        IMPLICIT, LINE, batch(r=lambda m, b: (m.scale * b["r"]).exp().log1p() / m.scale)
    ),
    "tm implicit: v0 for v": Mutant(IMPLICIT, LINE, tilted_y(-1)),
    "tm implicit: sign": Mutant(IMPLICIT, PLANE, batch(r=lambda m, b: -b["r"])),
    "tm weighted: exp - 1": Mutant(
        WEIGHTED,
        LINE,
        value(lambda losses, m, p, b: losses() - losses(r=torch.zeros_like(b["r"]))),
    ),
    "tm weighted: weight inside the square": Mutant(
        WEIGHTED, LINE, batch(r=lambda m, b: 2 * b["r"])
    ),
    "tm weighted: reward's sign": Mutant(WEIGHTED, LINE, batch(r=lambda m, b: -b["r"])),
}
