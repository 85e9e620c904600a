"""Digits of the closed forms and of quadrature (cases D1, D2, D4, B8; E6 and E8's numbers).

True values come from mpmath, written out in benchmarks.digits and here, or from the algebra of one
Gaussian.
"""

from __future__ import annotations

import math
from pathlib import Path

import mpmath
import pytest
import torch

from benchmarks.theory_digits import REFUSED, count, worst
from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.laws.gaussians import GaussianSum
from theory.laws.posterior import Posterior
from theory.problems.problem import Problem, load_problem, parse_problem
from theory.samplers.flow import FlowLaw
from theory.tilts.bump_rewards import BumpReward, bump_reward, bumps_reward
from theory.tilts.bumps import Bumps, BumpsGiven
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.rewards import CallableReward, Reward
from theory.tilts.tilt import tilt
from theory.tilts.wrappers import ClippedExponential, Exponential, Power, TruncatedExponential

SLICE, FIRST = 40, 20_000


def x_at(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# --- D1: a narrow bump in a broad component


def true_mean(mu: float, s: float, c: float, w: float) -> float:
    """E[exp(-(X - c)^2 / 2 w^2)], X ~ N(mu, s^2), at 50 digits."""
    with mpmath.workdps(50):
        mu, s, c, w = (mpmath.mpf(v) for v in (mu, s, c, w))
        total = s**2 + w**2
        return float(mpmath.sqrt(w**2 / total) * mpmath.exp(-((mu - c) ** 2) / (2 * total)))


@pytest.mark.parametrize("width", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_d1_narrow_bump_in_a_broad_component(width):
    base = GaussianSum.mixture([1.0], [[0.1]], stds=[5.0])
    reward = bump_reward(1.0, [-9.0], width=width)
    expected = true_mean(0.1, 5.0, -9.0, width)
    problem = Problem("narrow", base, reward)
    assert QUADRATURE_TIGHT.holds(problem.conditional_reward.mean(x_at([0.3]), 0.0), expected)
    assert QUADRATURE_TIGHT.holds(tilt(base, reward, Power(1)).log_z.exp(), expected)
    excess = tilt(base, reward, Exponential(1.0)).log_z.expm1()
    with mpmath.workdps(50):
        series = sum(
            mpmath.mpf(true_mean(0.1, 5.0, -9.0, width / math.sqrt(n))) / mpmath.factorial(n)
            for n in range(1, 30)
        )
    assert QUADRATURE_TIGHT.holds(excess, float(series), scale=1.0)


def test_d1_would_catch_the_exponent_in_pieces():
    """c'Ac, mu'C^-1 mu and the product's own square, subtracted: what the code did before."""
    mu, s, c, w = 0.1, 5.0, -9.0, 1e-6
    own = mu / s**2 + c / w**2
    pieces = 0.5 * own**2 / (1 / s**2 + 1 / w**2) - 0.5 * mu**2 / s**2 - 0.5 * c**2 / w**2
    wrong = math.exp(pieces) * w / math.sqrt(s**2 + w**2)
    assert not QUADRATURE_TIGHT.holds(wrong, true_mean(mu, s, c, w))


@pytest.mark.parametrize("problems", [SLICE // 5, pytest.param(SLICE, marks=pytest.mark.slow)])
def test_d1_random_problems(problems):
    """A slice of `python -m benchmarks theory --only digits`."""
    found = count(problems, FIRST)
    assert len({dim for dim, _ in found}) == 3
    asked = refused = 0
    for tally in found.values():
        assert worst(tally.errors + tally.hard_errors) <= QUADRATURE_TIGHT.rtol
        asked, refused = asked + len(tally.errors), refused + tally.errors.count(None)
    assert asked > 6 * problems
    assert refused <= REFUSED * asked


@pytest.mark.parametrize(
    ("seed", "name"), [(4329, "divergence, base"), (4652, "grad m"), (8944, "log E(r|x)")]
)
def test_d1_what_has_a_bound_of_its_own_is_refused(seed, name):
    """Off by 1e-9 to 1e-8 without a word before: slopes that cancel, a logarithm of a value that
    underflows."""
    for (_, quantity), tally in count(1, seed).items():
        assert worst(tally.errors + tally.hard_errors) <= QUADRATURE_TIGHT.rtol
        assert quantity != name or None in tally.hard_errors


def test_d1_random_problems_catch_a_lost_digit(monkeypatch):
    """Centres rounded to single precision must not pass."""
    whole = Bumps.products

    def rounded(n, centres, precisions):
        return whole(n, centres.float().double(), precisions)

    monkeypatch.setattr(Bumps, "products", rounded)
    errors = [e for tally in count(6, FIRST).values() for e in tally.errors]
    assert max(errors) > QUADRATURE_TIGHT.rtol


def test_d1_product_keeps_the_digits_of_the_narrow_factor():
    wide = GaussianSum.mixture([1.0], [[1e3]], stds=[1e3])
    narrow = GaussianSum.mixture([1.0], [[1e-3]], stds=[1e-6])
    found = wide.product(narrow)
    with mpmath.workdps(50):
        c, d = mpmath.mpf(1e3) ** 2, mpmath.mpf(1e-6) ** 2
        true = (c * mpmath.mpf(1e-3) + d * 1000) / (c + d)
    assert abs(float(found.mean[0, 0]) - float(true)) <= ALGEBRA.rtol * 1e-6


def test_d1_where_the_inputs_do_not_decide_the_value_it_is_refused():
    """A bump 1e-9 wide at 1000: its distance is known to 1e-13, a ten-thousandth of its width."""
    base = GaussianSum.mixture([1.0], [[1000.0 + 1e-9]], stds=[1e-9])
    problem = Problem("sharp", base, bump_reward(1.0, [1000.0], width=1e-9))
    with pytest.raises(ValueError, match=r"E\[r \| x\] has lost digits"):
        problem.conditional_reward.mean(x_at([900.0]), 0.9)
    two = GaussianSum.mixture([0.5, 0.5], [[1000.0], [1000.0 + 3e-9]], stds=[1e-9, 1e-9])
    with pytest.raises(ValueError, match="the divergence has lost digits"):
        Problem("sharp", two, problem.reward).base_field.divergence(x_at([1000.0 + 1.5e-9]), 1.0)


# --- D2: quadrature that its integrand hides from


@pytest.mark.parametrize("width", [0.003, 1e-6])
def test_d2_narrow_bump_in_the_plane(width):
    base = GaussianSum.mixture([1.0], [[0.0, 0.0]], stds=[1.0])
    reward = bump_reward(1.0, [1.2, 0.7], width=width)
    x, scale = x_at([0.5, 0.3], [1.1, 0.6]), 11.62
    by = {
        route: Problem("narrow", base, reward, scale, route=route)
        for route in ("closed", "quadrature")
    }
    for ask in (
        lambda p: p.conditional_reward.mean(x, 0.6),
        lambda p: p.conditional_reward.gradient(x, 0.6),
        lambda p: p.tilt(Exponential(scale)).log_z,
        lambda p: p.tilt(Exponential(scale)).expectation(),
        lambda p: p.tilted_field(Exponential(scale))(x, 0.97),
    ):
        assert QUADRATURE_TIGHT.holds(ask(by["quadrature"]), ask(by["closed"]))
    blind = true_mean(0.0, 1.0, 1.2, width) * true_mean(0.0, 1.0, 0.7, width)
    assert QUADRATURE_TIGHT.holds(by["quadrature"].conditional_reward.mean(x, 0.0), [blind] * 2)


def test_d2_log_z_of_the_case():
    base = GaussianSum.mixture([1.0], [[0.0, 0.0]], stds=[1.0])
    reward = bump_reward(1.0, [1.2, 0.7], width=0.003)
    found = tilt(base, reward, Exponential(11.62), route="quadrature")
    assert abs(float(found.log_z) - 0.0357) < 5e-5  # the four digits of the report


def test_d2_narrow_bumps_within_wide_ones_on_the_line():
    base = GaussianSum.mixture([0.4, 0.6], [[-1.0], [1.5]], stds=[1.0, 0.3])
    reward = bumps_reward([1.0, -0.5, 2.0], [[1.2], [0.7], [0.71]], widths=[1e-4, 0.5, 1e-2])
    x = x_at([0.5], [1.1])
    closed, nodes = (Problem("q", base, reward, route=r) for r in ("closed", "quadrature"))
    for wrapper in (Exponential(2.0), Exponential(-2.0), TruncatedExponential(0.4, 3)):
        for t in (0.0, 0.95, 1.0):
            expected = closed.tilted_field(wrapper)(x, t)
            assert QUADRATURE_TIGHT.holds(nodes.tilted_field(wrapper)(x, t), expected)
    clipped = tilt(base, reward, ClippedExponential(2.0, 3.0), route="quadrature")
    with mpmath.workdps(20):
        rows = ((1, 1.2, 1e-4), (-0.5, 0.7, 0.5), (2, 0.71, 1e-2))

        def integrand(y):
            r = sum(h * mpmath.exp(-(((y - c) / w) ** 2) / 2) for h, c, w in rows)
            own = 0.4 * mpmath.npdf(y, -1, 1) + 0.6 * mpmath.npdf(y, 1.5, 0.3)
            return own * min(mpmath.exp(2 * r), mpmath.mpf(3))

        cuts = [c + s * w for _, c, w in rows for s in (-9, -3, 0, 3, 9)]
        kinks = list(clipped.conditional.cuts)  # where the integrand bends
        ends = sorted([-10.0, *cuts, *kinks, 1.5, 4.0, 10.0])
        true = float(mpmath.log(mpmath.quad(integrand, ends)))
    assert len(kinks) == 4  # two of them on the bump that is 1e-4 wide
    assert QUADRATURE_TIGHT.holds(clipped.log_z, true, scale=1.0)


def test_d2_what_nodes_cannot_follow_is_refused_by_name():
    plane = GaussianSum.mixture([1.0], [[0.0, 0.0]], stds=[1.0])
    crossed = bumps_reward([1.0, 1.0], [[0.2, 0.1], [0.1, 0.3]], widths=[[1.0, 1e-3], [1e-3, 1.0]])
    with pytest.raises(ValueError, match="crossed by none that is over"):
        tilt(plane, crossed, Exponential(1.0), route="quadrature")
    line = GaussianSum.mixture([1.0], [[0.0]], stds=[1.0])
    narrow = quadratic_reward([[-1e8]], [1.2e7], -7.2e5)  # exp(r) is a spike 1e-4 wide
    with pytest.raises(ValueError, match="must have log Z to"):
        tilt(line, narrow, Exponential(1.0), route="quadrature")
    spike = CallableReward(lambda x: torch.exp(-0.5 * ((x[:, 0] - 0.31) / 0.005) ** 2), 1)
    with pytest.raises(ValueError, match="must change by"):
        tilt(line, spike, Exponential(1.0), route="quadrature")
    capped = ClippedExponential(20.0, math.exp(150.0))  # its mass lies beyond the standard nodes
    with pytest.raises(ValueError, match="nodes that reach"):
        tilt(line, linear_reward([1.0]), capped, route="quadrature")


# --- D4: steep linear rewards


def test_d4_divergence_of_a_steep_linear_reward():
    """v* = v0 + a (1 - t) b l / V: its divergence is the base's, whatever a."""
    base = GaussianSum.mixture([1.0], [[0.0]], stds=[1.0])
    problem, x = Problem("steep", base, linear_reward([20.0])), x_at([36000.0], [-3.0])
    field = problem.nft_field(1e-3)
    _, own = field.with_divergence(x, 0.9)
    expected = (0.9 - 0.1) / (0.9**2 + 0.1**2)  # V' / 2V of N(0, t^2 + (1 - t)^2)
    assert ALGEBRA.holds(own, [expected] * 2)

    count = [0]
    whole = type(field).with_divergence

    class Counted(type(field)):
        def with_divergence(self, x, t):
            count[0] += 1
            return whole(self, x, t)

    law = FlowLaw(Counted(field.base, field.displacement))
    start = x_at([0.3], [-1.0])
    end, log_q = law.push_with_log_density(start)
    again, log_back = law.pull_back(end)
    assert count[0] < 1000
    standard = -0.5 * start[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)
    assert QUADRATURE_TIGHT.holds(log_q, standard, scale=1.0)  # N(a b, 1) at a b + x_0
    assert QUADRATURE_TIGHT.holds(log_back, standard, scale=1.0)
    assert QUADRATURE_TIGHT.holds(again, start, scale=1.0)


def test_d4_would_catch_a_component_apart_from_its_own_average(monkeypatch):
    """A displacement of one rounding of the score, where one component has none."""
    score = Posterior.component_scores
    wrong = property(lambda post: score.__get__(post) * torch.finfo(torch.float64).eps)
    monkeypatch.setattr(Posterior, "component_displacements", wrong)
    base = GaussianSum.mixture([1.0], [[0.0]], stds=[1.0])
    field = Problem("steep", base, linear_reward([20.0])).nft_field(1e-3)
    _, own = field.with_divergence(x_at([36000.0]), 0.9)
    assert not ALGEBRA.holds(own, [0.8 / 0.82])


# --- B8: constant rewards


@pytest.mark.parametrize("heights", [[0.0], [0.0, 0.0]])
def test_b8_the_law_of_a_constant_reward_is_the_base(heights):
    base = GaussianSum.mixture([0.5, 0.5], [[-2.0], [2.0]], stds=[0.6, 0.6])
    centres, widths = [[0.5 + i] for i in range(len(heights))], [1.0] * len(heights)
    problem = Problem("zero", base, bumps_reward(heights, centres, widths=widths))
    field, x = problem.nft_field(1.0), x_at([-1.0], [0.3])
    for t in (0.0, 0.5, 1.0):
        assert torch.equal(field(x, t), problem.base_field(x, t))
        expected = problem.base_field.with_divergence(x, t)[1]
        assert torch.equal(field.with_divergence(x, t)[1], expected)
        assert float(problem.conditional_reward.mean(x, t).abs().max()) == 0
    assert QUADRATURE_TIGHT.holds(FlowLaw(field).log_density(x), base.log_density(x), scale=1.0)
    for wrapper in (Exponential(1.0), TruncatedExponential(1.0, 2)):
        assert ALGEBRA.holds(problem.tilt(wrapper).log_z, 0.0, scale=1.0)
    with pytest.raises(ValueError, match="the normaliser of r must be Z > 0, got 0"):
        problem.tilt(Power(1))


# --- E6, E8: numbers of a problem

LINE = """
{scale}
[base]
weights = [0.5, 0.5]
means = [[-2.0], [2.0]]
stds = [{std}, 0.6]
[reward]
kind = "bumps"
heights = [{height}]
centres = [[0.5]]
widths = [{width}]
"""


def line(scale: str = "", std: str = "0.6", height: str = "1.0", width: str = "1.0") -> Problem:
    return parse_problem(LINE.format(scale=scale, std=std, height=height, width=width), "x.toml")


@pytest.mark.parametrize(
    ("scale", "height"), [("scale = 1e12", "1.0"), ("", "1e9"), ("scale = 1e300", "1e300")]
)
def test_e6_series_without_end_are_refused(scale, height):
    problem = line(scale=scale, height=height)
    with pytest.raises(ValueError, match=r"must have at most .* Gaussian terms, got"):
        problem.tilt(Exponential(problem.scale))


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("stds", {"std": "1e-200"}),
        ("stds", {"std": "1e200"}),
        ("widths", {"width": "1e-200"}),
        ("widths", {"width": "1e200"}),
    ],
)
def test_e8_squares_that_float64_cannot_hold(name, kwargs):
    with pytest.raises(ValueError, match=rf"{name} must hold numbers > 0, from 2.1e-154 .*got "):
        line(**kwargs)


def test_e8_a_tiny_scale_is_a_scale():
    problem = line(scale="scale = 1e-300")
    assert float(problem.tilt(Exponential(problem.scale)).log_z) == 0
    field = problem.nft_field(2 / problem.scale)
    assert torch.equal(field(x_at([0.3]), 0.5), problem.base_field(x_at([0.3]), 0.5))


def test_e8_paths_and_what_is_no_name(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(LINE.format(scale="", std="0.6", height="1.0", width="1.0"), encoding="utf-8")
    assert load_problem(file).dim == load_problem(str(file)).dim == 1
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_problem(Path("absent.toml"))
    for wrong in (None, 3, b"note_1d"):
        with pytest.raises(TypeError, match=r"problem must be a name or a path .*got"):
            load_problem(wrong)


def test_d1_a_flat_bump_keeps_its_slope():
    """Components that see a bump alike up to 1e-9: their difference is half of the slope."""
    means, stds = [[0.018752860443029665], [-0.022458813522796536]], [0.3152048877128871, 0.0039487]
    base = GaussianSum.mixture([0.45, 0.55], means, stds=stds)
    reward = bump_reward(-1.8222730261923756, [-0.025272240482520993], width=391.67764517887855)
    t, x = 0.9870969342780063, -0.023195162885677512
    found = Problem("flat", base, reward).conditional_reward.gradient(x_at([x]), t)
    with mpmath.workdps(50):

        def mean(at):
            total = weighted = mpmath.mpf(0)
            for w, mu, s in zip((0.45, 0.55), means, stds, strict=True):
                mu, s, one = mpmath.mpf(mu[0]), mpmath.mpf(s), 1 - mpmath.mpf(t)
                variance = (t * s) ** 2 + one**2
                own = w * mpmath.npdf(at, t * mu, mpmath.sqrt(variance))
                m, square = mu + t * s**2 / variance * (at - t * mu), (s * one) ** 2 / variance
                b, c = (mpmath.mpf(float(v)) for v in (reward.precisions, reward.centres))
                grown = 1 + square * b
                bump = mpmath.exp(-((c - m) ** 2) * b / grown / 2) / mpmath.sqrt(grown)
                total, weighted = total + own, weighted + own * bump
            return float(reward.heights) * weighted / total

        step = mpmath.mpf(10) ** -15
        true = (mean(x + step) - mean(x - step)) / (2 * step)
    assert QUADRATURE_TIGHT.holds(found, [[float(true)]])


def test_values_under_the_floor_of_float64_have_a_logarithm():
    base = GaussianSum.mixture([1.0], [[0.0]], stds=[1.0])
    reward: Reward = bump_reward(-0.5, [60.0], width=0.1)
    assert isinstance(reward, BumpReward)
    log_mean, sign = Problem("far", base, reward).conditional_reward.log_mean(x_at([0.0]), 0.0)
    expected = math.log(0.5) - 0.5 * math.log(101.0) - 1800 / 1.01
    assert ALGEBRA.holds(log_mean, expected)
    assert float(sign) == -1


def test_bumps_given_in_planes_agree_with_their_diagonal_form():
    """The same numbers by singular values, by shared axes and coordinate by coordinate."""
    base = GaussianSum.mixture(
        [0.4, 0.6], [[0.1, -0.3], [0.8, 0.2]], stds=[[1.0, 0.01], [0.3, 2.0]]
    )
    n = torch.ones(1, 1, dtype=torch.float64)
    turned = torch.tensor([[1e6, 1e-7], [1e-7, 0.5]], dtype=torch.float64)
    centre, x = torch.tensor([[0.2, 0.1]], dtype=torch.float64), x_at([0.4, 0.3])
    post = base.noised(x, 0.7, 0.3)
    straight = Bumps.products(n, centre, torch.diag(turned.diagonal())[None])
    bent = Bumps.products(n, centre, turned[None])
    assert straight.axes is None
    assert bent.axes is not None
    one, other = BumpsGiven.of(post, straight), BumpsGiven.of(post, bent)
    assert ALGEBRA.holds(other.log_value, one.log_value)
    assert ALGEBRA.holds(other.push, one.push, scale=float(one.push.abs().max()))
    assert ALGEBRA.holds(other.narrowing, one.narrowing)
