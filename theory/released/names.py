"""The names that trainers of the released loss use for its knobs, and how they are read.

    nft_beta        nft_beta (Flow-Factory, VRL), mix_beta (verl-omni), beta of DiffusionNFT's own
                    config, of FastVideo's method and of UniRL's algorithm
    kl_weight       kl_beta (FastVideo, Flow-Factory, VRL), ref_kl_coef (verl-omni),
                    ref_deviation_coef (UniRL), train.beta of DiffusionNFT's config
    adv_clip_max    adv_clip_max (DiffusionNFT, FastVideo, verl-omni), advantage_high (VRL),
                    adv_std_saturate (UniRL)
    ema             decay_type 0, 1, 2 (DiffusionNFT, FastVideo), old_policy_decay_schedule copy,
                    linear_to_0_5, delayed_linear_to_0_999 (verl-omni)

So `beta` alone is either of two knobs that are 1,000 times apart: it is read where its trainer or
its section is named, and refused with both readings where neither is.

Source: the configurations and losses of these repositories, read in public copies of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from theory.common.checks import check_choice
from theory.released.schedule import NAMES as SCHEDULE_NAMES

NFT_BETA, KL_WEIGHT, ADV_CLIP_MAX, EMA = "nft_beta", "kl_weight", "adv_clip_max", "ema"
SPELLINGS: Mapping[str, Mapping[str, str]] = {
    NFT_BETA: {
        "nft_beta": "",
        "mix_beta": "verl-omni",
        "config.beta": "DiffusionNFT",
        "method.beta": "FastVideo",
        "algorithm.beta": "UniRL",
    },
    KL_WEIGHT: {
        "kl_weight": "",
        "kl_beta": "FastVideo, Flow-Factory, VRL",
        "ref_kl_coef": "verl-omni",
        "ref_deviation_coef": "UniRL",
        "train.beta": "DiffusionNFT",
        "config.train.beta": "DiffusionNFT",
    },
    ADV_CLIP_MAX: {"adv_clip_max": "", "advantage_high": "VRL", "adv_std_saturate": "UniRL"},
    EMA: {
        "ema": "",
        "decay_type": "DiffusionNFT, FastVideo",
        "old_policy_decay_schedule": "verl-omni",
    },
}
"""By knob, its names and whose they are; the first is ours."""
BETA = {"diffusionnft": "config.beta", "fastvideo": "method.beta", "unirl": "algorithm.beta"}
"""What a bare beta is in a trainer's config."""
DECAYS = {
    "0": "none",
    "copy": "none",
    "1": "half",
    "linear_to_0_5": "half",
    "2": "late",
    "delayed_linear_to_0_999": "late",
}
MEANING = {
    NFT_BETA: "the mixing strength of the branches",
    KL_WEIGHT: "the weight of |v - v_ref|²",
    ADV_CLIP_MAX: "the clip of the advantage, r = 1/2 + A/(2 clip), and the loss's factor",
    EMA: "how the old copy follows",
}
TAUGHT = {
    "none": "a whole copy every epoch",
    "half": "decay min(0.001 k, 0.5) at step k",
    "late": "a whole copy up to step 75, then decay min(0.0075 (k - 75), 0.999)",
    "constant": "one decay",
}


def flags(knob: str) -> list[str]:
    """A knob's options on a command line: every name, with - and with _."""
    both = [f"--{s}" for name in SPELLINGS[knob] for s in (name.replace("_", "-"), name)]
    return list(dict.fromkeys(both))


@dataclass(frozen=True)
class Reading:
    """A knob's value, and how the name that it came under was read ("": it is ours)."""

    value: Any
    text: str = ""


def _plain(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def read(
    given: Sequence[tuple[str, Any]],
    knob: str,
    default: Any,
    trainer: str | None = None,
    beta: Any = None,
) -> Reading:
    """One knob from what was given, (flag, value) each; beta: a bare one, for nft_beta.

    Raises:
        ValueError: two names of one knob, or a bare beta without a trainer or of one that has none.
    """
    if knob == NFT_BETA and beta is not None:
        given = [*given, (_of_trainer(beta, trainer), beta)]
    if not given:
        return Reading(default)
    if len(given) > 1:
        named = " and ".join(f"{flag} = {value!r}" for flag, value in given)
        raise ValueError(f"{named} are one knob, {knob}: must be one of them")
    flag, value = given[0]
    name = _plain(flag)
    if knob == EMA:
        return _schedule(name, str(value))
    if name == knob:
        return Reading(value)
    owner = SPELLINGS[knob].get(name, "")
    shown = name if beta is None or knob != NFT_BETA else f"beta ({name})"
    return Reading(value, f"{shown} = {value:g} of {owner} is {knob}: {MEANING[knob]}")


def _of_trainer(beta: Any, trainer: str | None) -> str:
    """The full name of a bare beta."""
    if trainer is not None and trainer in BETA:
        return BETA[trainer]
    if trainer is not None:
        check_choice("--trainer", trainer, BETA)
    raise ValueError(
        f"--beta = {beta!r} has two readings: nft_beta, {MEANING[NFT_BETA]} (--config.beta of "
        "DiffusionNFT, --method.beta of FastVideo, --algorithm.beta of UniRL), and kl_weight, "
        f"{MEANING[KL_WEIGHT]} (--train.beta of DiffusionNFT); must be by its section, as here, or "
        f"with --trainer {' or '.join(BETA)}"
    )


def _schedule(name: str, value: str) -> Reading:
    """A decay type's name as one of theory.released.schedule's."""
    check_choice(name, value, [*SCHEDULE_NAMES, *DECAYS])
    ours = DECAYS.get(value, value)
    if name == EMA and ours == value:
        return Reading(ours)
    return Reading(ours, f"{name} = {value} is ema {ours}: {TAUGHT[ours]}")
