"""Mistakes that somebody could make in a loss, each rejected by the sweep's expected gradient.

A mutant is the method's own text with one snippet replaced; its policy stands at the optimum of the
method as it is. Mistakes that leave the fixed point alone are in `test_relations`.
"""

from __future__ import annotations

from importlib import import_module

import pytest

from tests.theory.methods.mutants import Mutant, mutant_module, true_optimum
from theory.methods.adjoint import family as adjoints
from theory.methods.contract.method import Optimum
from theory.methods.contract.probe import (
    GradientTest,
    expected_gradient,
    gradient_samples,
    gradient_test,
    prepare,
)
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem

LINE, PLANE, LINEAR = "note_1d", "bump_2d", "linear_1d"
FM, EXACT = "flow_matching", "flow_matching:target_velocity=exact"
NFT = "nft:nft_beta=0.5"
EXP = "weighted_flow_matching:scale=1.5"
CUT = "weighted_flow_matching:wrapper=truncated,order=2,scale=1.5"
FIRST = "weighted_flow_matching:wrapper=truncated"
POWER = "weighted_flow_matching:wrapper=power,exponent=2"
CLIPPED = "weighted_flow_matching:wrapper=clipped,max_weight=3"
EXPLICIT, IMPLICIT = "tilt_matching:kind=explicit", "tilt_matching:kind=implicit,scale=1.5"
WEIGHTED = "tilt_matching:kind=weighted,scale=1.5"
DDPO = "ddpo:kl_weight=0.4,steps=6,sigma_end=0.1"
DDPO_2D = "ddpo:kl_weight=0.4,steps=4,sigma_end=0.1"
ADJOINT = "adjoint_matching:scale=2.5,steps=6,sigma_end=0.1"
BASIC = "basic_adjoint_matching:scale=2.5,steps=6,sigma_end=0.1"
DISCRETE = "discrete_adjoint:scale=2.5,steps=6,sigma_end=0.1"

NFT_LOSS = "loss = r * positive + (1 - r) * negative"
NFT_SCALE = "return 2 * unit * self.nft_beta / (self.nft_beta**2 + self.kl_weight)"
ANCHORED = "nft:nft_beta=0.5,kl_weight=0.4"
NFT_ANCHOR = 'self.kl_weight * square(old + step / self.nft_beta - batch["v_ref"])'
NFT_STEP = 'step = self.nft_beta * (policy.student(batch["x"], batch["t"], batch["cond"]) - old)'
WFM_LOSS = 'return batch["weight"] * square(error)'
REWARD = 'returns = batch["r"][:, None] - self.kl_weight * kl_to_come'
TO_COME = 'kl_to_come = batch["kl"].flip(1).cumsum(1).flip(1)'
POLICY_LOSS = "policy_loss = (-advantage * log_prob + self.kl_weight * kl).sum(1)"
LOG_PROB = "log_prob = -_kl(chain, x[:, 1:], means)"
AM_ERROR = "control + self.unit * s * adjoint"
BASIC_BACK = "(a,) = torch.autograd.grad((mean * adjoint).sum() + cost.sum(), state)"
DISCRETE_STEP = "return mean + s[k] * noise[:, k + 1], 0.5 * square(control)"
BACK = "(g,) = torch.autograd.grad(base, state, adjoint)"


# Rows a block where the mistake is a small one.
MANY = 1024


def plain(text, problem, old, new, rows=256):
    return Mutant(text, problem, ((old, new),), rows)


MUTANTS = {
    # flow matching
    "fm: sign of Y": plain(FM, LINE, '- batch["y"]', '+ batch["y"]'),
    "fm: time reversed": plain(FM, LINE, 'policy.student(batch["x"], batch["t"]',
                               'policy.student(batch["x"], 1 - batch["t"]'),
    "fm: exact target at the wrong time": plain(EXACT, PLANE, '(batch["x"], batch["t"])\n',
                                                '(batch["x"], 1 - batch["t"])\n'),
    # NFT
    "nft: r and 1 - r swapped": plain(NFT, LINE, NFT_LOSS,
                                      "loss = (1 - r) * positive + r * negative"),
    "nft: reward's sign": plain(NFT, LINE, NFT_LOSS, "loss = -r * positive + (1 + r) * negative"),
    "nft: positive branch alone": plain(NFT, LINE, NFT_LOSS, "loss = r * positive"),
    "nft: negative branch unweighted": plain(NFT, LINE, NFT_LOSS,
                                             "loss = r * positive + negative"),
    "nft: r squared": plain(NFT, PLANE, NFT_LOSS,
                            "loss = r**2 * positive + (1 - r**2) * negative", MANY),
    "nft: nft_beta dropped": plain(NFT, LINE, NFT_STEP, NFT_STEP.replace("self.nft_beta * ", "")),
    "nft: nft_beta squared": plain(NFT, LINE, NFT_STEP,
                                   NFT_STEP.replace("self.nft_beta", "self.nft_beta**2")),
    "nft: nft_beta divides": plain(NFT, LINE, NFT_STEP,
                                   NFT_STEP.replace("self.nft_beta", "(1 / self.nft_beta)")),
    "nft: no old velocity in the step": plain(NFT, LINE, NFT_STEP, NFT_STEP.replace(" - old", "")),
    "nft: penalty dropped": plain(ANCHORED, LINE, f"loss + {NFT_ANCHOR}", "loss"),
    "nft: penalty on the step times nft_beta": plain(
        ANCHORED, LINE, NFT_ANCHOR, NFT_ANCHOR.replace("step / self.nft_beta", "step")),
    "nft: penalty's sign": plain(
        ANCHORED, LINE, f"loss + {NFT_ANCHOR}", f"loss - 0.1 * {NFT_ANCHOR}"),
    "nft: two positive branches": plain(NFT, LINE, "old - step - y", "old + step - y"),
    "nft: negative branch about zero": plain(NFT, LINE, "old - step - y", "-step - y"),
    "nft: old is the student": plain(
        NFT, LINE, "draws), policy.lagging", "draws), policy.student"),
    # weighted flow matching
    "wfm: unweighted": plain(EXP, LINE, WFM_LOSS, "return square(error)"),
    "wfm: weight squared": plain(EXP, LINE, WFM_LOSS, 'return batch["weight"]**2 * square(error)'),
    "wfm: weight less one": plain(EXP, LINE, WFM_LOSS,
                                  'return (batch["weight"] - 1) * square(error)'),
    "wfm: scale's sign": plain(EXP, LINE, '"exp": Exponential(self.scale)',
                               '"exp": Exponential(-self.scale)'),
    "wfm: scale dropped": plain(EXP, LINE, '"exp": Exponential(self.scale)',
                                '"exp": Exponential(1.0)', MANY),
    "wfm: order too high": plain(FIRST, LINE, "TruncatedExponential(self.scale, self.order)",
                                 "TruncatedExponential(self.scale, self.order + 1)", MANY),
    "wfm: order too low": plain(CUT, LINE, "TruncatedExponential(self.scale, self.order)",
                                "TruncatedExponential(self.scale, self.order - 1)", MANY),
    "wfm: exponent": plain(POWER, LINE, "Power(self.exponent)", "Power(self.exponent - 1)"),
    "wfm: clip forgotten": plain(CLIPPED, LINEAR, "ClippedExponential(self.scale, self.max_weight)",
                                 "Exponential(self.scale)"),
    # tilt matching
    "tm explicit: Y without v0": plain(EXPLICIT, LINE, '(y - batch["v0"])', "y"),
    "tm explicit: sign": plain(EXPLICIT, LINE, '+ column(r, y) * (y - batch["v0"])',
                               '- column(r, y) * (y - batch["v0"])'),
    "tm explicit: without v0 outside": plain(EXPLICIT, LINE, 'goal = batch["v0"] + column(r, y)',
                                             "goal = column(r, y)"),
    "tm explicit: scale dropped": plain(EXPLICIT, LINE, 'self.scale * batch["r"]', 'batch["r"]'),
    "tm explicit: v for v0": plain(EXPLICIT, LINE, '(y - batch["v0"])', "(y - v.detach())"),
    "tm implicit: gradient through the target": plain(IMPLICIT, LINE, "v.detach()", "v"),
    "tm implicit: first order": plain(IMPLICIT, LINE, "r.expm1()", "r"),
    "tm implicit: exp for exp - 1": plain(IMPLICIT, LINE, "r.expm1()", "r.exp()"),
    "tm implicit: v0 for v": plain(IMPLICIT, LINE, "(y - v.detach())", '(y - batch["v0"])'),
    "tm implicit: sign": plain(IMPLICIT, PLANE, "r.expm1()", "(-r).expm1()"),
    "tm weighted: exp - 1": plain(WEIGHTED, LINE, "r.exp() *", "r.expm1() *"),
    "tm weighted: weight inside the square": plain(WEIGHTED, LINE, "r.exp() * square(v - y)",
                                                   "square(column(r.exp(), y) * (v - y))"),
    "tm weighted: reward's sign": plain(WEIGHTED, LINE, "r.exp() *", "(-r).exp() *"),
    # DDPO
    "ddpo: reward's sign": plain(DDPO, LINE, REWARD, REWARD.replace("batch", "-batch", 1)),
    "ddpo: KL's sign in the return": plain(DDPO, LINE, REWARD, REWARD.replace("- self", "+ self")),
    "ddpo: KL left out of the return": plain(DDPO, LINE, REWARD,
                                             'returns = batch["r"][:, None] + 0 * kl_to_come'),
    "ddpo: advantage's sign": plain(DDPO, LINE, "-advantage * log_prob", "advantage * log_prob"),
    "ddpo: KL's own gradient left out": plain(DDPO, LINE, POLICY_LOSS,
                                              "policy_loss = (-advantage * log_prob).sum(1)"),
    "ddpo: weight left off the KL's gradient": plain(DDPO, LINE, "+ self.kl_weight * kl)", "+ kl)"),
    "ddpo: KL without the 1/2": plain(DDPO, LINE, "/ (2 * variance)", "/ variance"),
    "ddpo: std for variance": plain(DDPO, LINE, "[2].square()", "[2]"),
    "ddpo: KL of the past": plain(DDPO, LINE, TO_COME, 'kl_to_come = batch["kl"].cumsum(1)'),
    "ddpo: gradient through the baseline": plain(DDPO, LINE, "value.detach()", "value"),
    # These two leave the policy's gradient alone: the value network's rejects them.
    "ddpo: KL of all steps": plain(
        DDPO, LINE, TO_COME, 'kl_to_come = batch["kl"].sum(1, keepdim=True).expand_as(batch["kl"])'
    ),
    "ddpo: KL of later steps only": plain(DDPO, LINE, TO_COME, f'{TO_COME} - batch["kl"]'),
    "ddpo: log-probability of the step before": plain(DDPO, LINE, LOG_PROB,
                                                      LOG_PROB.replace("1:", ":-1")),
    "ddpo: log-probability averaged over dimensions": plain(DDPO_2D, PLANE, LOG_PROB,
                                                            f'{LOG_PROB} / x.shape[-1]'),
    "ddpo: all squares averaged over dimensions": plain(DDPO_2D, PLANE, ".flatten(2).sum(2)",
                                                        ".flatten(2).mean(2)", MANY),
    "ddpo: value at the wrong times": plain(
        DDPO, LINE, "t = chain.times.to(x).expand(len(x), -1)",
        "t = chain.times.flip(0).to(x).expand(len(x), -1)"),
    "ddpo: value of the next state": plain(DDPO, LINE, "states = x[:, :-1]", "states = x[:, 1:]"),
    "ddpo: reference is the student": plain(DDPO, LINE, "chain, policy.reference, batch",
                                            "chain, policy.student, batch"),
    # Adjoint Matching
    "am: sign": plain(ADJOINT, LINE, AM_ERROR, AM_ERROR.replace("+ self", "- self")),
    "am: scale dropped": plain(ADJOINT, LINE, AM_ERROR,
                               AM_ERROR.replace("unit", "unit / self.scale")),
    "am: s dropped on the right": plain(ADJOINT, LINE, AM_ERROR,
                                         AM_ERROR.replace("unit * s", "unit")),
    "am: s dropped on the left": plain(ADJOINT, LINE, "(means - base) / s", "(means - base)"),
    "am: adjoint of the wrong step": Mutant(ADJOINT, LINE, (
        ("                if k:\n", "                if True:\n"),
        ("torch.stack(adjoints[::-1], 1)", "torch.stack(adjoints[::-1], 1)[:, :-1]"))),
    "am: adjoints in reverse": plain(ADJOINT, LINE, "torch.stack(adjoints[::-1], 1)",
                                     "torch.stack(adjoints, 1)", MANY),
    "am: without the base's Jacobian": plain(ADJOINT, LINE, BACK, "g = adjoint"),
    "am: Jacobian at the wrong state": plain(ADJOINT, LINE, "state = x[:, k].detach()",
                                             "state = x[:, k + 1].detach()"),
    "am: reward's gradient is zero": plain(ADJOINT, LINE, "unit * reward", "unit * 0 * reward"),
    "am: reward at the state before": plain(ADJOINT, LINE, "task, x[:, -1]", "task, x[:, -2]"),
    "am: reference is the student": plain(ADJOINT, LINE, "chain.mean(policy.reference",
                                          "chain.mean(policy.student"),
    # basic Adjoint Matching; the lean adjoint in its place has the same fixed point
    # (`test_adjoints` tells them apart)
    "basic: sign of the adjoint": plain(BASIC, LINE, AM_ERROR,
                                        AM_ERROR.replace("+ self", "- self")),
    "basic: s dropped on the right": plain(BASIC, LINE, AM_ERROR,
                                           AM_ERROR.replace("unit * s", "unit")),
    "basic: s dropped on the left": plain(BASIC, LINE, "(means - base) / s", "(means - base)"),
    "basic: scale dropped": plain(BASIC, LINE, "-self.scale / self.unit * reward",
                                 "-1 / self.unit * reward"),
    "basic: reward's sign": plain(BASIC, LINE, "a = -self", "a = self"),
    "basic: adjoint of the wrong step": Mutant(BASIC, LINE, (
        ("                if k:\n", "                if True:\n"),
        ("torch.stack(adjoints[::-1], 1)", "torch.stack(adjoints[::-1], 1)[:, :-1]"))),
    "basic: adjoints in reverse": plain(BASIC, LINE, "torch.stack(adjoints[::-1], 1)",
                                        "torch.stack(adjoints, 1)", MANY),
    "basic: without the KL's own gradient": plain(BASIC, LINE, " + cost.sum(), state)",
                                                  ", state)", MANY),
    "basic: KL without the 1/2": plain(BASIC, LINE, "/ (2 * s**2)", "/ s**2", MANY),
    "basic: std for variance in the KL": plain(BASIC, LINE, "2 * s**2", "2 * s", MANY),
    "basic: without the policy's Jacobian": plain(BASIC, LINE, BASIC_BACK, "a = adjoint"),
    "basic: KL's gradient alone": plain(BASIC, LINE, "(mean * adjoint).sum() + ", ""),
    "basic: Jacobian at the wrong state": plain(BASIC, LINE, "state = x[:, k].detach()",
                                                "state = x[:, k + 1].detach()"),
    "basic: reference held fixed in the KL": plain(BASIC, LINE, "square(mean - base)",
                                                   "square(mean - base.detach())", MANY),
    "basic: reward at the state before": plain(BASIC, LINE, "task, x[:, -1]", "task, x[:, -2]"),
    # discrete adjoint; with the student's state held fixed it is a lean one, of one step
    "discrete: reward's sign": plain(DISCRETE, LINE, "control - self.full", "control + self.full"),
    "discrete: scale dropped": plain(DISCRETE, LINE, "self.full_scale * reward", "reward"),
    "discrete: the noise's s dropped": plain(DISCRETE, LINE, "s[k] * noise", "noise"),
    "discrete: the control's s dropped": plain(DISCRETE, LINE, ") / s[k]", ")"),
    "discrete: cost without the 1/2": plain(DISCRETE, LINE, "0.5 * square", "square"),
    "discrete: no cost": plain(DISCRETE, LINE, "costs.append(cost)", "costs.append(0 * cost)"),
    "discrete: reference at a state held fixed": plain(
        DISCRETE, LINE, "chain.mean(reference, k, x, cond)",
        "chain.mean(reference, k, x.detach(), cond)", MANY),
    "discrete: policy held fixed in the rollout": plain(
        DISCRETE, LINE, DISCRETE_STEP, DISCRETE_STEP.replace("mean", "mean.detach()")),
    "discrete: reference is the student": plain(DISCRETE, LINE, "policy.student, policy.reference,",
                                                "policy.student, policy.student,"),
    "discrete: reward of the state before": plain(
        DISCRETE, LINE, "x, cost = step(x, k)", "(old, (x, cost)) = (x, step(x, k))\n"
        "                x = x if k + 1 < chain.steps else old + 0 * x"),
}  # fmt: skip

INTERPOLATE = {
    "alpha and sigma swapped": (
        "return alpha * x1 + sigma * x0,",
        "return sigma * x1 + alpha * x0,",
    ),
    "sign of the noise": ("dalpha * x1 + dsigma * x0", "dalpha * x1 - dsigma * x0"),
    "target is the data": ("dalpha * x1 + dsigma * x0", "dalpha * x1"),
    "alpha for its derivative": ("column(path.dalpha(t), x1)", "column(path.alpha(t), x1)"),
}
BASE_SAMPLES = {
    "no weights": ("law.log_abs.exp().cumsum(-1)", "torch.full_like(law.log_abs, 0.5).cumsum(-1)"),
    "unit widths": ("+ factor[which, 0] * noise", "+ noise"),
    "widths of another component": ("factor[which, 0]", "factor[which - 1, 0]"),
}  # fmt: skip

ROLLOUTS = {
    "rollouts: times reversed": (("t = chain.times.to(x)", "t = chain.times.flip(0).to(x)"),),
    "rollouts: the next state": (("states = x[:, :-1]", "states = x[:, 1:]"),),
    "rollouts: P and Q swapped": (("P, Q, _ = chain.coeff", "Q, P, _ = chain.coeff"),),
    "rollouts: Q forgotten": (("+ Q * velocity", "+ velocity"),),
    "rollouts: reward of the first state": (
        ("task.reward(x[:, -1], cond)", "task.reward(x[:, 0], cond)"),
    ),
}


def at_true_optimum(mutant: Mutant, method) -> GradientTest:
    return expected_gradient(method, load_problem(mutant.problem), "optimum", n=mutant.rows)


@pytest.mark.parametrize(
    ("text", "problem"), sorted({(m.text, m.problem) for m in MUTANTS.values()})
)
def test_methods_as_they_stand_pass(text, problem):
    whole = Mutant(text, problem)
    assert at_true_optimum(whole, whole.original).vanishes


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name):
    mutant = MUTANTS[name]
    assert not at_true_optimum(mutant, mutant.method()).vanishes


def put_in_task(monkeypatch, function, edit):
    broken = getattr(mutant_module("theory.methods.contract.task", edit), function)
    monkeypatch.setattr(f"theory.methods.contract.task.{function}", broken)


@pytest.mark.parametrize("name", INTERPOLATE)
@pytest.mark.parametrize("text", [FM, NFT, EXP, EXPLICIT, IMPLICIT])
def test_mutant_of_the_path_is_rejected(name, text, monkeypatch):
    put_in_task(monkeypatch, "interpolate", INTERPOLATE[name])
    whole = Mutant(text, LINE)
    assert not at_true_optimum(whole, whole.original).vanishes


@pytest.mark.parametrize("name", BASE_SAMPLES)
def test_mutant_of_the_base_samples_is_rejected(name, monkeypatch):
    put_in_task(monkeypatch, "_mixture_samples", BASE_SAMPLES[name])
    whole = Mutant(FM, LINE, rows=MANY)
    assert not at_true_optimum(whole, whole.original).vanishes


@pytest.mark.parametrize(
    ("text", "name"),
    # Adjoint methods take the reward's gradient themselves.
    [(t, m) for m in ROLLOUTS for t in (DDPO, ADJOINT, BASIC) if t == DDPO or "reward" not in m],
)
def test_mutant_of_the_rollouts_is_rejected(name, text, monkeypatch):
    whole = Mutant(text, LINE)
    best, method = true_optimum(text, LINE), whole.original
    broken = mutant_module("theory.methods.chain.rollouts", *ROLLOUTS[name])
    file = import_module(type(parse_method(text)).__module__)
    for part in ("kernel_means", "trajectories"):
        place = file if hasattr(file, part) else adjoints
        monkeypatch.setattr(place, part, getattr(broken, part))
    assert best is not None
    assert not at_true_optimum(whole, method).vanishes


SHARED = {
    "gradient of the mean reward": ("grad(reward.sum(), x,", "grad(reward.mean(), x,"),
    "reward_scale dropped": ("return method.reward_scale * gradient", "return gradient"),
    "reward_scale squared": ("return method.reward_scale * g", "return method.reward_scale**2 * g"),
    "rollouts of the reference": ("chain, policy.student, task", "chain, policy.reference, task"),
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("text", [ADJOINT, BASIC])
def test_mutant_of_what_adjoint_methods_share_is_rejected(name, text, monkeypatch):
    text = text.replace("scale=2.5", "scale=1.25,reward_scale=2") if "scale" in name else text
    whole, broken = Mutant(text, LINE), mutant_module(adjoints.__name__, SHARED[name])
    method = whole.original
    if "rollouts" in name:
        monkeypatch.setattr(adjoints.StoredAdjoint, "collect", broken.StoredAdjoint.collect)
    else:
        file = type(parse_method(text)).__module__
        monkeypatch.setattr(f"{file}.reward_gradient", broken.reward_gradient)
    assert not at_true_optimum(whole, method).vanishes


@pytest.mark.parametrize(
    "edit",
    [
        ("reward = task.reward(x, cond)", "reward = task.reward(x, cond).detach()"),
        ("reward = task.reward(x, cond)", "reward = task.reward(x.detach(), cond)"),
    ],
)
def test_detached_reward_is_refused(edit):
    mutant = plain(DISCRETE, LINE, *edit)
    with pytest.raises(ValueError, match=r"no gradient.*discrete_adjoint.* needs"):
        at_true_optimum(mutant, mutant.method())


# --- a wrong optimum beside a right loss

OPTIMA = {
    "nft: second order": plain(NFT, LINE, "cumulant_field(self.scale(problem), 1)",
                               "cumulant_field(self.scale(problem), 2)"),
    "nft: 1/nft_beta": plain(NFT, LINE, NFT_SCALE,
                             NFT_SCALE.replace("2 * unit", "unit")),
    "nft: penalty left out of the optimum": plain(
        ANCHORED, LINE, " + self.kl_weight)", ")"),
    "nft: without nft_beta": plain(NFT, LINE, NFT_SCALE, "return 2 * unit"),
    "nft: the tilt": plain(NFT, LINE, "field = problem.cumulant_field(self.scale(problem), 1)",
                           "field = problem.tilted_field(Exponential(self.scale(problem)))"),
    "tm: explicit is said to be exact": plain(
        EXPLICIT, LINE, 'if self.kind == "explicit":\n            return',
        "if False:\n            return"),
    "wfm: the base": plain(EXP, LINE, "Optimum(problem.tilted_field(self.phi)",
                           "Optimum(problem.base_field"),
    "ddpo: kl_weight for its inverse": plain(DDPO, LINE, "self.chain(problem), 1 / self.kl_weight)",
                                             "self.chain(problem), self.kl_weight)"),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMA)
def test_wrong_optimum_is_rejected(name):
    mutant = OPTIMA[name]
    whole = parse_method(mutant.text)
    module = mutant_module(type(whole).__module__, *mutant.edits)
    method = getattr(module, type(whole).__name__)(**whole.options)
    best = method.optimum(load_problem(mutant.problem))
    if not best.exact:
        best = Optimum(best.velocity, best.sampler)
    assert not expected_gradient(
        method, load_problem(mutant.problem), "optimum", best=best
    ).vanishes


@pytest.mark.parametrize(
    "edit",
    [
        ("if problem.dim <= 2", "if problem.dim <= 0"),  # the limit of many steps
        ("chain_optimum(problem, chain, self.full_scale)",
         "chain_optimum(problem, chain, self.scale)"),
        ("return self.scale * self.reward_scale", "return self.scale / self.reward_scale"),
    ],
)  # fmt: skip
def test_wrong_optimum_of_the_adjoint_methods_is_rejected(edit):
    text, problem = "discrete_adjoint:reward_scale=1.6,steps=4,sigma_end=0.1", load_problem(LINE)
    kind = mutant_module(adjoints.__name__, edit).AdjointMethod
    whole = parse_method(text)
    stated = type(
        "Stated", (type(whole),), {"optimum": kind.optimum, "full_scale": kind.full_scale}
    )
    best = stated(**whole.options).optimum(problem)
    best = Optimum(best.velocity, best.sampler)
    assert not expected_gradient(whole, problem, "optimum", best=best).vanishes


def test_all_steps_kl_is_seen_by_the_value_network_alone():
    """KL already paid is a baseline: variance for the policy, another fixed point for the value."""
    mutant = MUTANTS["ddpo: KL of all steps"]
    method, problem = mutant.method(), load_problem(mutant.problem)
    setting = prepare(method, problem, "optimum")
    samples = gradient_samples(method, setting)
    own = setting.policy.student.theta[0].numel()
    assert gradient_test(samples[:, :own]).vanishes
    assert not gradient_test(samples[:, own:]).vanishes
