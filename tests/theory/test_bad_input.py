"""Bad input gets an error that names the argument, its value and what is allowed."""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import LINE, PLANE
from theory.evaluation.choices import choose_field
from theory.fields.diffusion import Diffusion
from theory.fields.paths import RECTIFIED_FLOW, VarianceExploding, VariancePreserving
from theory.laws.distances import GridLaw, grid_distances, sliced_w2
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem, load_problem, parse_problem
from theory.samplers.flow import FlowLaw
from theory.samplers.sde import sde_law
from theory.tilts.bump_rewards import bump_reward, bumps_reward
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.rewards import CallableReward
from theory.tilts.tilt import tilt
from theory.tilts.wrappers import ClippedExponential, Exponential, Power, TruncatedExponential

NAN, INF = math.nan, math.inf


@dataclass
class Bad:
    """A call, the exception it must raise, and what the message must contain."""

    call: Any
    needles: tuple[str, ...]
    error: type[Exception] | tuple[type[Exception], ...] = ValueError


def bad(call, *needles, error=ValueError):
    return Bad(call, (*needles, "must|need"), error)


def zeros(*shape, dtype=torch.float64):
    return torch.zeros(*shape, dtype=dtype)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def mixture(weights=(0.6, 0.4), means=((-1.0,), (1.5,)), **kwargs):
    return GaussianSum.mixture(list(weights), [list(m) for m in means], **kwargs)


def plane(*covs):
    return mixture(means=((-1.0, 0.2), (1.5, 0.0)), covs=list(covs))


GOOD_COV = [[0.5, 0.1], [0.1, 0.3]]
BUMP = bump_reward(1.0, [0.5], width=1.0)
LINEAR = linear_reward([0.5], 0.1)
PROBLEM = Problem("own", LINE.law, BUMP, 2.0)
FLAT = Problem("flat", PLANE.law, linear_reward([0.5, 0.2]))
FIELD, LAW = PROBLEM.base_field, FlowLaw(PROBLEM.base_field)
UNIT = Diffusion.of_constant(1.0)
AXIS = np.linspace(-8, 8, 21)

LAWS = {
    "weights sum": bad(
        lambda: mixture((0.6, 0.5), stds=[1.0, 2.0]), "weights", r"0\.6, 0\.5", r"1\.1", "sum of 1"
    ),
    "weights negative": bad(lambda: mixture((1.2, -0.2), stds=[1.0, 2.0]), "weights", r"-0\.2"),
    "weights nan": bad(lambda: mixture((NAN, 0.2), stds=[1.0, 2.0]), "weights", "nan", "finite"),
    "weights text": bad(lambda: GaussianSum.mixture("abc", [[0.0]], stds=[1.0]), "weights", "abc"),
    "weights None": bad(lambda: GaussianSum.mixture(None, [[0.0]], stds=[1.0]), "weights", "None"),
    "weights scalar": bad(
        lambda: GaussianSum.mixture(1.0, [[0.0]], stds=[1.0]), "weights", r"got \(\)"
    ),
    "means flat": bad(
        lambda: GaussianSum.mixture([1.0], [0.0], stds=[1.0]), "means", r"got \(1,\)"
    ),
    "means ragged": bad(
        lambda: mixture(means=((0.0, 1.0), (1.0,)), stds=[1.0, 2.0]), "means", r"\[0\.0, 1\.0\]"
    ),
    "means count": bad(lambda: mixture((0.2, 0.3, 0.5), stds=[1.0, 2.0]), "means", r"\(2, 1\)"),
    "means inf": bad(lambda: mixture(means=((INF,), (1.0,)), stds=[1.0, 2.0]), "means", "inf"),
    "no dimensions": bad(lambda: mixture(means=((), ()), stds=[1.0, 2.0]), "means", r"\(2, 0\)"),
    "covs asymmetric": bad(
        lambda: plane(GOOD_COV, [[1.0, 0.5], [0.0, 1.0]]), "covs", r"0\.5", "symmetric"
    ),
    "covs indefinite": bad(
        lambda: plane(GOOD_COV, [[1.0, 2.0], [2.0, 1.0]]), "covs", "-1", "positive definite"
    ),
    "covs singular": bad(
        lambda: plane(GOOD_COV, [[1.0, 0.0], [0.0, 0.0]]), "covs", "0", "positive definite"
    ),
    "covs not square": bad(
        lambda: plane([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        "covs", r"\(2, 2, 3\)",
    ),
    "covs count": bad(lambda: plane(GOOD_COV), "covs", r"\(1, 2, 2\)"),
    "stds zero": bad(lambda: mixture(stds=[0.5, 0.0]), "stds", r"0\.0", "> 0"),
    "stds negative": bad(lambda: mixture(stds=[0.5, -1.0]), "stds", r"-1", "> 0"),
    "stds count": bad(lambda: mixture(stds=[0.5, 1.0, 2.0]), "stds", r"\(3,\)", r"\(2,\)"),
    "both": bad(
        lambda: mixture(stds=[0.5, 1.0], covs=[[[1.0]], [[2.0]]]), "covs", "stds", "exactly one"
    ),
    "neither": bad(lambda: mixture(), "covs", "stds", "None", "exactly one"),
    "x axis": bad(lambda: LINE.law.log_density(zeros(3, 2)), "x", r"\(3, 2\)", r"n, 1"),
    "x flat": bad(lambda: LINE.law.score(zeros(3)), "x", r"\(3,\)", r"n, 1"),
    "x dtype": bad(
        lambda: LINE.law.log_density(zeros(3, 1, dtype=torch.float32)),
        "x", "float32", "float64", error=TypeError,
    ),
    "x numpy": bad(
        lambda: LINE.law.log_density(np.zeros((3, 1))), "x", "ndarray", "Tensor", error=TypeError
    ),
    "x batch": bad(
        lambda: GaussianSum(
            *(torch.stack([p] * 2) for p in (LINE.law.log_abs, LINE.law.sign, LINE.law.mean,
                                             LINE.law.cov))
        ).log_density(zeros(3, 4, 1)),
        "x", r"\(3, 4, 1\)",
    ),
    "cdf in the plane": bad(lambda: PLANE.law.cdf(zeros(3)), "cdf", "d = 2", "d = 1"),
    "cdf dtype": bad(
        lambda: LINE.law.cdf(zeros(3, dtype=torch.float32)), "x", "float32", error=TypeError
    ),
    "product of dimensions": bad(lambda: LINE.law.product(PLANE.law), "d = 1", "d = 2"),
    "product of dtypes": bad(
        lambda: LINE.law.product(LINE.law.to(torch.float32)), "float32", "float64",
        error=(TypeError, ValueError),
    ),
    "power 0": bad(lambda: LINE.law.power(0), "power", "0"),
    "power fraction": bad(lambda: LINE.law.power(1.5), "power", r"1\.5", "whole"),
    "power terms": bad(lambda: LINE.law.power(12), "power", "531441", "100000"),
    "marginal axis": bad(lambda: PLANE.law.marginal([2]), "axes", "2", r"\[0, 1\]"),
    "marginal twice": bad(lambda: PLANE.law.marginal([1, 1]), "axes", r"\[1, 1\]", "distinct"),
    "affine shape": bad(lambda: PLANE.law.affine(zeros(3, 3)), "matrix", r"\(3, 3\)"),
    "affine vector": bad(lambda: PLANE.law.affine(zeros(2)), "matrix", r"\(2,\)"),
    "affine dtype": bad(
        lambda: PLANE.law.affine(torch.eye(2)), "matrix", "float32", error=(TypeError, ValueError)
    ),
    "no mass": bad(lambda: LINE.law.scaled(0.0, -1.0).normalised(), "total", r"-1", "positive"),
    "no draws": bad(
        lambda: LINE.law.scaled(0.0, -1.0).sample(3, torch.Generator()), "negative coefficients"
    ),
    "zero draws": bad(lambda: LINE.law.sample(0, torch.Generator()), "n", "0"),
    "quadratic too strong": bad(
        lambda: LINE.law.times_exp_quadratic(zeros(1, 1, 1) + 5, zeros(1, 1), zeros(1)),
        "quadratic", "-3.5", "positive definite",
    ),
}  # fmt: skip

TIMES = {
    f"time {t}": bad(lambda t=t: FIELD(zeros(3, 1), t), r"\bt\b", shown, r"\[0, 1\]")
    for t, shown in ((1.5, r"1\.5"), (-0.1, r"-0\.1"), (NAN, "nan"))
} | {
    "time one of many": bad(
        lambda: FIELD(zeros(3, 1), doubles(0.1, 1.5, 0.3)), r"\bt\b", r"1\.5", r"\[0, 1\]"
    ),
    "time shape": bad(
        lambda: FIELD(zeros(3, 1), doubles(0.1, 0.2)), r"\bt\b", r"\(2,\)", r"\(3,\)"
    ),
    "time dtype": bad(
        lambda: FIELD(zeros(3, 1), torch.tensor([0.1, 0.2, 0.3])),
        r"\bt\b", "float32", error=TypeError,
    ),
    "time text": bad(
        lambda: FIELD(zeros(3, 1), "a"), r"\bt\b", "a", error=(TypeError, ValueError)
    ),
    "field x axis": bad(lambda: FIELD(zeros(3, 2), 0.5), "x", r"\(3, 2\)", "n, 1"),
    "field x dtype": bad(
        lambda: FIELD(zeros(3, 1, dtype=torch.float32), 0.5), "x", "float32", error=TypeError
    ),
    "push x": bad(lambda: LAW.push(zeros(3, 2)), "x", r"\(3, 2\)", "n, 1"),
    "source": bad(
        lambda: RECTIFIED_FLOW.convert(zeros(3, 1), zeros(3, 1), 0.5, "z", "eps"),
        "source", "'z'", "one of x1",
    ),
    "target": bad(
        lambda: RECTIFIED_FLOW.convert(zeros(3, 1), zeros(3, 1), 0.5, "eps", "z"),
        "target", "'z'", "one of x1",
    ),
    "convert time": bad(
        lambda: RECTIFIED_FLOW.convert(zeros(3, 1), zeros(3, 1), NAN, "x1", "eps"), "t", "nan"
    ),
    "eps at 0": bad(
        lambda: RECTIFIED_FLOW.convert(zeros(3, 1), zeros(3, 1), 0.0, "eps", "x1"),
        "source", "'eps'", "t = 0",
    ),
    "score at 1": bad(
        lambda: RECTIFIED_FLOW.convert(zeros(3, 1), zeros(3, 1), 1.0, "score", "x1"),
        "source", "'score'", "t = 1",
    ),
    "to score at 1": bad(
        lambda: RECTIFIED_FLOW.convert(zeros(3, 1), zeros(3, 1), 1.0, "eps", "score"),
        "target", "'score'", "t = 1",
    ),
    "vp velocity at 1": bad(
        lambda: VariancePreserving().convert(zeros(3, 1), zeros(3, 1), 1.0, "velocity", "x1"),
        "source", "'velocity'", "t = 1",
    ),
    "convert shapes": bad(
        lambda: RECTIFIED_FLOW.convert(zeros(3, 2), zeros(4, 1), 0.5, "x1", "eps"),
        "value", r"\(3, 2\)", r"\(4, 1\)",
    ),
    "convert dtypes": bad(
        lambda: RECTIFIED_FLOW.convert(
            zeros(3, 1, dtype=torch.float32), zeros(3, 1), 0.5, "x1", "eps"
        ),
        "value", "float32", "float64", error=TypeError,
    ),
    "beta_min": bad(lambda: VariancePreserving(beta_min=0.0), "beta_min", "0", "> 0"),
    "sigma_max": bad(lambda: VarianceExploding(sigma_max=-1.0), "sigma_max", "-1", "> 0"),
    "rho": bad(lambda: VarianceExploding(rho=0.5), "rho", r"0\.5", ">= 1"),
    "rho inf": bad(lambda: VarianceExploding(rho=INF), "rho", "inf"),
    "rho text": bad(lambda: VarianceExploding(rho="a"), "rho", "a"),
}  # fmt: skip

TILTS = {
    "no normaliser": bad(
        lambda: tilt(LINE.law, quadratic_reward([[1.5]], [0.2]), Exponential(2.0)),
        "normaliser does not exist", "scale = 2", "positive definite",
    ),
    "no normaliser, quadrature": bad(
        lambda: tilt(
            LINE.law, quadratic_reward([[1.5]], [0.2]), Exponential(2.0), route="quadrature"
        ),
        "normaliser does not exist", "scale = 2",
    ),
    "overflow": bad(
        lambda: tilt(LINE.law, LINEAR, Exponential(200.0)), "normaliser", "200", "log Z", "scale"
    ),
    "overflow to nan": bad(
        lambda: tilt(LINE.law, LINEAR, Exponential(1e300)), "normaliser", r"1e\+300", "scale"
    ),
    "underflow": bad(
        lambda: tilt(LINE.law, linear_reward([0.5], -1e4), Exponential(1.0)), "normaliser", "log Z"
    ),
    "overflow of a bump": bad(
        lambda: tilt(LINE.law, BUMP, Exponential(1e3)), "normaliser", "1000", "log Z"
    ),
    "1 + a r, linear": bad(
        lambda: tilt(LINE.law, LINEAR, TruncatedExponential(1.0, 1)), "1\\+r", "-inf", ">= 0"
    ),
    "1 + a r, bump": bad(
        lambda: tilt(LINE.law, BUMP, TruncatedExponential(-2.0, 1)), "-2r", "got -1$", ">= 0"
    ),
    "1 + a r, callable": bad(
        lambda: tilt(
            LINE.law, CallableReward(lambda x: x[:, 0].tanh(), 1), TruncatedExponential(-2.0, 1),
            route="quadrature",
        ),
        "-2r", ">= 0",
    ),
    "odd power": bad(lambda: tilt(LINE.law, LINEAR, Power(3)), r"r\^3", "-inf", ">= 0"),
    "reward's dimension": bad(
        lambda: tilt(PLANE.law, LINEAR, Exponential(1.0)), "reward", "d = 1", "d = 2"
    ),
    "dtypes": bad(
        lambda: tilt(LINE.law.to(torch.float32), LINEAR, Exponential(1.0)),
        "float32", "float64", error=(TypeError, ValueError),
    ),
    "route": bad(
        lambda: tilt(LINE.law, LINEAR, Exponential(1.0), route="magic"), "route", "magic", "closed"
    ),
    "wrapper": bad(
        lambda: tilt(LINE.law, LINEAR, "exp"), "wrapper", "exp", error=(TypeError, ValueError)
    ),
    "no closed form": bad(
        lambda: tilt(LINE.law, BUMP, ClippedExponential(1.0)), r"min\(exp", "quadrature"
    ),
    "quadrature in 3 d": bad(
        lambda: tilt(
            GaussianSum.mixture([1.0], [[0.0] * 3], stds=[1.0]), linear_reward([1.0] * 3),
            Exponential(1.0), route="quadrature",
        ),
        "quadrature", "d = 3",
    ),
    "kink unresolved": bad(
        lambda: tilt(
            LINE.law, CallableReward(lambda x: (x[:, 0] > 0.3).double(), 1), Exponential(1.0),
            route="quadrature",
        ),
        "quadrature", "breakpoints",
    ),
    "callable's shape": bad(
        lambda: CallableReward(lambda x: x, 1)(zeros(3, 1)), "reward", r"\(3, 1\)", "one value"
    ),
    "scale nan": bad(lambda: Exponential(NAN), "scale", "nan"),
    "scale text": bad(lambda: TruncatedExponential("a", 2), "scale", "a"),
    "scale batch": bad(lambda: Exponential(doubles(1.0, INF)), "scale", "inf"),
    "order 0": bad(lambda: TruncatedExponential(1.0, 0), "order", "0", "from 1"),
    "order 33": bad(lambda: TruncatedExponential(1.0, 33), "order", "33", "to 32"),
    "order fraction": bad(lambda: TruncatedExponential(1.0, 1.5), "order", r"1\.5", "whole"),
    "exponent 0": bad(lambda: Power(0), "exponent", "0", "from 1"),
    "max_weight": bad(lambda: ClippedExponential(1.0, 0.0), "max_weight", "0", "> 0"),
}  # fmt: skip

REWARDS = {
    "vector nan": bad(lambda: linear_reward([NAN]), "vector", "nan"),
    "vector scalar": bad(lambda: linear_reward(1.0), "vector", r"\(\)"),
    "constant nan": bad(lambda: linear_reward([1.0], NAN), "constant", "nan"),
    "constant text": bad(lambda: linear_reward([1.0], "x"), "constant", "x"),
    "constant shape": bad(
        lambda: quadratic_reward([[1.0]], [1.0], zeros(3)), "constant", r"\(3,\)"
    ),
    "matrix asymmetric": bad(
        lambda: quadratic_reward([[1.0, 2.0], [0.0, 1.0]], [1.0, 1.0]),
        "matrix", r"2\.0", "symmetric"
    ),
    "matrix shape": bad(
        lambda: quadratic_reward([[1.0]], [1.0, 1.0]), "matrix", r"\(1, 1\)", "vector"
    ),
    "heights nan": bad(lambda: bumps_reward([NAN], [[0.0]], widths=[1.0]), "heights", "nan"),
    "heights scalar": bad(lambda: bumps_reward(1.0, [[0.0]], widths=[1.0]), "heights", r"\(\)"),
    "centres count": bad(
        lambda: bumps_reward([1.0, 2.0], [[0.0]], widths=[1.0, 2.0]), "centres", r"\(1, 1\)"
    ),
    "widths zero": bad(
        lambda: bumps_reward([1.0], [[0.0]], widths=[0.0]), "widths", r"0\.0", "> 0"
    ),
    "widths count": bad(
        lambda: bumps_reward([1.0, 2.0], [[0.0], [1.0]], widths=[1.0]), "widths", r"\(1,\)"
    ),
    "widths and precisions": bad(
        lambda: bumps_reward([1.0], [[0.0]], widths=[1.0], precisions=[[[1.0]]]),
        "widths", "precisions", "exactly one",
    ),
    "precisions negative": bad(
        lambda: bumps_reward([1.0], [[0.0]], precisions=[[[-1.0]]]), "precisions", "-1"
    ),
    "precisions asymmetric": bad(
        lambda: bumps_reward([1.0], [[0.0, 0.0]], precisions=[[[1.0, 0.5], [0.0, 1.0]]]),
        "precisions", r"0\.5", "symmetric",
    ),
    "precisions shape": bad(
        lambda: bumps_reward([1.0], [[0.0, 0.0]], precisions=[[[1.0]]]),
        "precisions", r"\(1, 1, 1\)"
    ),
    "order of a power": bad(lambda: BUMP.power_terms(LINE.law, -1), "order", "-1"),
    "bump of other points": bad(lambda: BUMP(zeros(3, 2)), "x", r"\(3, 2\)"),
    "linear of other points": bad(lambda: LINEAR(zeros(3, 2)), "x", r"\(3, 2\)"),
    "bump of other dtype": bad(
        lambda: BUMP(zeros(3, 1, dtype=torch.float32)), "x", "float32", error=TypeError
    ),
    "linear of other dtype": bad(
        lambda: LINEAR(zeros(3, 1, dtype=torch.float32)), "x", "float32", error=TypeError
    ),
}  # fmt: skip

FIELDS = {
    "problem": bad(lambda: load_problem("nope"), "problem", "nope", "note_1d"),
    "problem file": Bad(
        lambda: load_problem("nope.toml"), ("problem", "nope", "no such file"), FileNotFoundError
    ),
    "problem's dimensions": bad(lambda: Problem("p", PLANE.law, BUMP), "reward", "d = 1", "d = 2"),
    "problem's scale": bad(lambda: Problem("p", LINE.law, BUMP, NAN), "scale", "nan"),
    "problem's route": bad(lambda: Problem("p", LINE.law, BUMP, route="x").moments, "route", "x"),
    "field": bad(lambda: choose_field(PROBLEM, "magic"), "field", "magic", "nft_plus"),
    "nft_beta 0": bad(lambda: PROBLEM.nft_field(0.0), "nft_beta", "0", "> 0"),
    "nft_beta nan": bad(lambda: PROBLEM.nft_field(NAN), "nft_beta", "nan", "> 0"),
    "nft_beta negative": bad(lambda: choose_field(PROBLEM, "nft", nft_beta=-1.0), "nft_beta", "-1"),
    "nft sign": bad(lambda: PROBLEM.nft_perturbation(2), "sign", "2"),
    "cumulant order": bad(lambda: PROBLEM.cumulant_field(1.0, 0), "order", "0", "from 1"),
    "cumulant order chosen": bad(lambda: choose_field(PROBLEM, "cumulant", order=0), "order", "0"),
    "mixed cumulant order": bad(
        lambda: PROBLEM.conditional_reward.mixed_cumulant(0, zeros(2, 1), 0.5), "order", "0"
    ),
    "cumulant scale": bad(lambda: PROBLEM.cumulant_field(NAN, 1), "scale", "nan"),
    "level 0": bad(lambda: LAW.quantile(doubles(0.0, 0.5)), r"\bu\b", "0", r"\(0, 1\)"),
    "level 1": bad(lambda: LAW.quantile(doubles(0.5, 1.0)), r"\bu\b", "1", r"\(0, 1\)"),
    "level nan": bad(lambda: LAW.quantile(doubles(0.5, NAN)), r"\bu\b", "nan", r"\(0, 1\)"),
    "flow's cdf in the plane": bad(
        lambda: FlowLaw(FLAT.base_field).cdf(zeros(3, 2)), "cdf", "d = 2", "d = 1"
    ),
    "flow's quantile in the plane": bad(
        lambda: FlowLaw(FLAT.base_field).quantile(doubles(0.5)), "quantile", "d = 2", "d = 1"
    ),
    "rtol": bad(lambda: FlowLaw(FIELD, rtol=0.0), "rtol", "0", "> 0"),
    "grid uneven": bad(
        lambda: sde_law(FIELD, UNIT, np.array([-3.0, 0.0, 1.0, 3.0])), "grid", "equal steps"
    ),
    "grid coarse": Bad(
        lambda: sde_law(FIELD, UNIT, np.linspace(-8, 8, 24)),
        ("grid", "24 points", "coarse", "try 48 points"), ValueError,
    ),
    "grid short": Bad(
        lambda: sde_law(FIELD, UNIT, np.linspace(-1, 1, 60)), ("grid", "short", "wider"), ValueError
    ),
    "grid of one": bad(lambda: sde_law(FIELD, UNIT, np.zeros(1)), "grid", "1"),
    "grid of equals": bad(lambda: sde_law(FIELD, UNIT, np.zeros(20)), "grid"),
    "sde in the plane": bad(lambda: sde_law(FLAT.base_field, UNIT, AXIS), "d = 2", "d = 1"),
    "g": bad(lambda: Diffusion.of_constant(0.0), r"\bg\b", "0", "> 0"),
    "multiple": bad(lambda: Diffusion.of_memoryless(-1.0), "multiple", "-1", "> 0"),
    "start": bad(lambda: Diffusion.of_memoryless(1.0, start=2.0), "start", "2"),
    "two grids": bad(
        lambda: grid_distances(GridLaw((AXIS,), -(AXIS**2)), GridLaw((AXIS + 1,), -(AXIS**2))),
        "p and q", "one grid",
    ),
    "two sizes": bad(lambda: sliced_w2(zeros(4, 2), zeros(5, 2)), r"\(4, 2\)", r"\(5, 2\)"),
}  # fmt: skip

TOML = """\
scale = 2.0
[base]
weights = [0.6, 0.4]
means = [[-1.0], [1.5]]
stds = [0.7, 0.5]
[reward]
kind = "bumps"
heights = [1.0]
centres = [[0.5]]
widths = [1.0]
"""


def parse(old, new):
    assert TOML.count(old) == 1
    return parse_problem(TOML.replace(old, new), "own.toml")


def linear(constant):
    head = TOML[: TOML.index("kind")]
    return parse_problem(
        f'{head}kind = "linear"\nvector = [1.0]\nconstant = {constant}', "own.toml"
    )


EDITS = {
    "syntax": ("scale = 2.0", "scale = [[", "TOML", "line"),
    "unknown key": ("scale = 2.0", "scle = 2.0", "scle", "unknown", "must"),
    "unknown key in base": ("stds", "sds", "sds", "base", "must"),
    "unknown key in reward": ("widths", "width", "width", "reward", "must"),
    "missing key": ("means = [[-1.0], [1.5]]", "", "missing", "means", "must"),
    "missing stds": ("stds = [0.7, 0.5]", "", "stds", "covs", "must"),
    "missing kind": ('kind = "bumps"', "", "reward.kind", "None", "must"),
    "unknown kind": ('"bumps"', '"magic"', "reward.kind", "magic", "must"),
    "listed kind": ('"bumps"', '["bumps"]', "reward.kind", "must"),
    "weights text": ("[0.6, 0.4]", '"abc"', "weights", "abc", "must"),
    "weights texts": ("[0.6, 0.4]", '["a", "b"]', "weights", "'a'", "must"),
    "weights scalar": ("[0.6, 0.4]", "1.0", "weights", r"\(\)", "must"),
    "weights empty": ("[0.6, 0.4]", "[]", "weights", r"\[\]", "must"),
    "weights sum": ("[0.6, 0.4]", "[0.6, 0.5]", "weights", r"1\.1", "must"),
    "weights date": ("[0.6, 0.4]", "2024-01-01", "weights", "2024", "must"),
    "weights booleans": ("[0.6, 0.4]", "[true, false]", "weights", "True", "must"),
    "means ragged": ("[[-1.0], [1.5]]", "[[-1.0], [1.5, 2.0]]", "means", "must"),
    "stds scalar": ("[0.7, 0.5]", "0.7", "stds", r"\(\)", "must"),
    "stds negative": ("[0.7, 0.5]", "[0.7, -0.5]", "stds", r"-0\.5", "must"),
    "heights scalar": ("[1.0]\ncentres", "1.0\ncentres", "heights", r"\(\)", "must"),
    "heights empty": ("[1.0]\ncentres", "[]\ncentres", "heights", r"\(0,\)|\[\]", "must"),
    "centres in the plane": ("[[0.5]]", "[[0.5, 1.0]]", "reward", "d = 2", "must"),
    "scale negative": ("2.0", "-1", "scale", "-1", "> 0", "must"),
    "scale text": ("2.0", '"x"', "scale", "'x'", "must"),
    "scale nan": ("2.0", "nan", "scale", "nan", "must"),
    "scale boolean": ("2.0", "true", "scale", "True", "must"),
    "path": ("scale = 2.0", 'path = "magic"', "path", "magic", "rectified_flow", "must"),
    "name with a slash": ("scale = 2.0", 'name = "../x"', "name", r"\.\./x", "must"),
}
FILES = {
    name: Bad(lambda old=old, new=new: parse(old, new), ("own.toml", *needles), ValueError)
    for name, (old, new, *needles) in EDITS.items()
} | {
    "base is a number": bad(
        lambda: parse_problem("base = 3\n" + TOML[TOML.index("[reward]") :],
        "own.toml"), "base", "3"
    ),
    "reward is a number": bad(
        lambda: parse_problem("reward = 3\n" + TOML[: TOML.index("[reward]")], "own.toml"),
        "reward", "3",
    ),
    "empty file": bad(lambda: parse_problem("", "own.toml"), "missing", "base", "reward"),
    "constant text": bad(lambda: linear('"x"'), "own.toml", "constant", "x"),
    "constant list": bad(lambda: linear("[1.0, 2.0]"), "own.toml", "constant"),
    "constant nan": bad(lambda: linear("nan"), "own.toml", "constant", "nan"),
}  # fmt: skip

TABLE = {
    f"{group}: {name}": case
    for group, cases in {
        "law": LAWS, "time": TIMES, "tilt": TILTS, "reward": REWARDS, "field": FIELDS, "file": FILES
    }.items()
    for name, case in cases.items()
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_message(case):
    with pytest.raises(case.error) as caught:
        case.call()
    missing = [needle for needle in case.needles if not re.search(needle, str(caught.value))]
    assert not missing, f"{missing} not in: {caught.value}"


def test_a_file_that_is_no_text(tmp_path):
    file = tmp_path / "own.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"own\.toml"):
        load_problem(str(file))


def test_the_good_cases_behind_the_table_are_good():
    assert parse("2.0", "3.0").scale == 3.0
    assert linear("0.5").dim == 1
    assert plane(GOOD_COV, GOOD_COV).dim == 2
    assert torch.isfinite(FIELD(zeros(3, 1), 0.5)).all()
