"""The GFlowNet methods' losses against the conditions written out kernel by kernel, and options."""

from __future__ import annotations

import pytest
import torch

from theory.common.tolerances import ALGEBRA
from theory.gflownet.balance import Balance, ResidualBalance
from theory.gflownet.kernels import GaussianKernels, gradient
from theory.methods import Draws, ProblemTask
from theory.methods.contract.perturbed import Perturbed
from theory.methods.gflownet.trajectory_balance import noised_back
from theory.methods.gflownet.transitions import draw_strata, strata
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem
from toys.networks.mlp import StackedMLP

DOUBLE = torch.float64
NOTE, PLANE = load_problem("note_1d"), load_problem("bump_2d")
SHORT = "steps=4,sigma_end=0.1"
GAMMAS = {
    "off": lambda t: 0.0,
    "one": lambda t: 1.0,
    "signal": lambda t: t,
    "signal_squared": lambda t: t**2,
}


def random(problem, outputs, seed):
    """A network that is not its own start: an exact field, or nothing, and features of it."""
    function = problem.base_field if seed == 0 else lambda x, t, c: x.new_zeros(len(x), outputs)
    model = Perturbed(function, 1, problem.dim, outputs, seed)
    generator = torch.Generator().manual_seed(seed + 10)
    with torch.no_grad():
        model.theta.copy_(0.3 * torch.randn(model.theta.shape, dtype=DOUBLE, generator=generator))
    return model


class Setting:
    """A method's policy away from its start, and a batch of three trajectories."""

    def __init__(self, text, problem=PLANE, rows=3):
        self.method, self.problem = parse_method(text), problem
        self.task = ProblemTask(
            [problem], dtype=DOUBLE, auxiliary_maker=lambda outputs, _: random(problem, outputs, 1)
        )
        self.draws = Draws.seeded([5], DOUBLE)
        self.student = Perturbed(problem.base_field, 1, problem.dim, problem.dim)
        self.policy = self.method.setup(self.student, self.task, self.draws)
        with torch.no_grad():
            self.student.theta.copy_(random(problem, problem.dim, 0).theta)
        self.batch = self.method.collect(self.policy, self.task, rows, self.draws)
        self.x, self.chain = self.batch["x"], self.method.chain(self.task)

    def losses(self):
        return self.method.loss(self.policy, self.task, self.batch)[0]

    def gradients(self, player):
        model = self.student if player == "student" else self.policy.networks[player]
        (found,) = torch.autograd.grad(self.losses().sum(), [model.theta], allow_unused=True)
        return torch.zeros_like(model.theta) if found is None else found

    def log_reward(self, x):
        raw = self.problem.reward(x)
        return self.method.scale * (raw.log() if self.method.form == "plain" else raw)

    def conditions(self):
        """Residual, or with the noising."""
        own = GaussianKernels(self.chain, self.student)
        if "residual" in self.method.name or "relative" in self.method.name:
            base = GaussianKernels(self.chain, self.problem.base_field)
            return ResidualBalance(own, base, self, self.method.prior)
        return Balance(self.chain, own, self)

    # --- the flow

    def network(self, k, x):
        t = 1.0 if k == self.chain.steps else float(self.chain.times[k])
        with torch.no_grad():
            return self.policy.networks["flow"](x, torch.full((len(x),), t, dtype=DOUBLE))

    def ahead(self, k, x):
        """gamma beta log R(xhat), the path being rectified flow."""
        t = k / self.chain.steps
        gamma = GAMMAS[self.method.look_ahead](t)
        if not gamma:
            return 0.0 * x.sum(1)
        data = (
            x if t == 1 else x + (1 - t) * self.student(x, torch.full((len(x),), t, dtype=DOUBLE))
        )
        return gamma * self.log_reward(data)

    def score(self, k, x):
        return self.network(k, x) + gradient(lambda y: self.ahead(k, y), x.detach())

    def log_flow(self, k, x):
        if k == self.chain.steps:
            return self.log_reward(x)
        return (self.network(k, x)[:, 0] + self.ahead(k, x)).detach()


def square(x):
    return (x**2).sum(1)


@pytest.mark.parametrize("look", GAMMAS)
@pytest.mark.parametrize(
    "text",
    [
        "residual_nabla_db:prior=0.7",
        "residual_nabla_db:w_forward=0.5,w_backward=2,w_terminal=3",
        "residual_nabla_db:w_backward=0",
        "residual_nabla_db:form=plain,second_order=true",
        "nabla_db",
        "nabla_db:held=true",
    ],
)
def test_nabla_losses_are_the_conditions_squared(text, look):
    s = Setting(f"{text}{',' if ':' in text else ':'}{SHORT},look_ahead={look}")
    method, conditions, x = s.method, s.conditions(), s.x
    expected = torch.zeros(3, dtype=DOUBLE)
    for k in range(4):
        forward = conditions.forward(k, x[:, k], x[:, k + 1])
        reverse = conditions.reverse(k, x[:, k], x[:, k + 1])
        expected += method.w_forward * square(forward) + method.w_backward * square(reverse)
    left = s.score(4, x[:, 4]) - gradient(s.log_reward, x[:, 4].detach())
    expected += method.w_terminal * square(left)
    assert ALGEBRA.holds(
        s.losses().detach(), expected.detach(), scale=float(expected.detach().max())
    )


def test_the_bidirectional_loss_is_remark_6():
    s = Setting(f"residual_nabla_db:{SHORT},bidirectional=true,prior=0.7")
    conditions, x = s.conditions(), s.x
    expected = torch.zeros(3, dtype=DOUBLE)
    for k in range(3):
        expected += square(conditions.bidirectional(k, x[:, k], x[:, k + 1], x[:, k + 2]))
    _, after = conditions.policy_scores(3, x[:, 3], x[:, 4])
    expected += square(after - gradient(s.log_reward, x[:, 4].detach()))
    assert not s.policy.networks
    assert ALGEBRA.holds(s.losses().detach(), expected, scale=float(expected.max()))


@pytest.mark.parametrize("look", GAMMAS)
@pytest.mark.parametrize("text", ["residual_db:prior=0.7", "residual_db:form=plain", "dag_db"])
def test_detailed_balance_losses_are_the_condition_squared(text, look):
    s = Setting(f"{text}{',' if ':' in text else ':'}{SHORT},look_ahead={look}")
    conditions, x = s.conditions(), s.x
    each = [conditions.detailed(k, x[:, k], x[:, k + 1]) ** 2 for k in range(4)]
    expected = torch.stack(each).sum(0).detach()
    assert ALGEBRA.holds(s.losses().detach(), expected, scale=float(expected.max()))


@pytest.mark.parametrize(
    "text", ["relative_trajectory_balance:prior=0.7", "trajectory_balance:form=plain"]
)
def test_trajectory_balance_losses_are_the_condition_squared(text):
    s = Setting(f"{text},{SHORT}")
    conditions, x = s.conditions(), s.x
    one = torch.ones(1, 2, dtype=DOUBLE)
    log_z = float(s.policy.networks["log_z"](one, torch.zeros(1, dtype=DOUBLE)).detach())
    if "relative" in text:
        left = conditions.trajectory(x, log_z, s.log_reward(x[:, -1]))
    else:
        s.method = parse_method("dag_db:look_ahead=off")  # what `log_flow` asks: log R at the end
        left = conditions.trajectory(x, log_z)
        s.method = parse_method(f"{text},{SHORT}")
    expected = left.detach() ** 2
    assert ALGEBRA.holds(s.losses().detach(), expected, scale=float(expected.max()))


# --- what is held fixed


def test_held_flows_learn_from_behind_alone():
    """The loss is linear in w_forward: what it adds is not in a held flow's gradient."""
    text = f"residual_nabla_db:{SHORT},w_forward="
    held, one, two = (Setting(t) for t in (f"{text}1,held=true", f"{text}1", f"{text}2"))
    without = 2 * one.gradients("flow") - two.gradients("flow")
    assert ALGEBRA.holds(held.gradients("flow"), without, scale=float(without.abs().max()))
    assert ALGEBRA.holds(held.gradients("student"), one.gradients("student"), scale=1e3)


def test_the_score_behind_teaches_the_policy_at_second_order_alone():
    text = f"residual_nabla_db:{SHORT},look_ahead=off,w_backward="
    one, two = (Setting(f"{text}{w}").gradients("student") for w in (1, 2))
    assert torch.equal(one, two)
    one, two = (Setting(f"{text}{w},second_order=true").gradients("student") for w in (1, 2))
    assert (one - two).abs().max() > 0.1 * one.abs().max()


# --- options


@pytest.mark.parametrize("look", ["off", "signal"])
def test_a_subset_has_the_expected_loss_of_all(look):
    """Over every choice of one transition of each stretch, weighted equally."""
    s = Setting(f"residual_nabla_db:steps=5,sigma_end=0.1,subset=3,look_ahead={look}")
    whole = Setting(f"residual_nabla_db:steps=5,sigma_end=0.1,look_ahead={look}")
    x = s.batch["x"]
    expected = torch.zeros(3, dtype=DOUBLE)
    for first in (0, 1):
        for second in (2, 3):
            index = torch.tensor([[first, second, 4]]).expand(3, -1)
            part = {"x": x, "cond": None, "index": index, "r": s.batch["r"]}
            walk = s.method.walk(s.task, part)
            after, before = s.method.against.scores(s.policy, walk, before=True)
            part |= {"prior_after": after, "prior_before": before}
            part["terminal"] = s.method.terminal_score(s.task, part)
            if look != "off":
                part["ahead_here"], part["ahead_after"] = s.method.look(
                    s.policy, s.task, walk, part
                )
            expected += s.method.loss(s.policy, s.task, part)[0].detach() / 4
    walk = whole.method.walk(s.task, {"x": x, "cond": None})
    after, before = whole.method.against.scores(s.policy, walk, before=True)
    every = {"x": x, "cond": None, "r": s.batch["r"], "prior_after": after, "prior_before": before}
    every["terminal"] = whole.method.terminal_score(s.task, every)
    if look != "off":
        every["ahead_here"], every["ahead_after"] = whole.method.look(s.policy, s.task, walk, every)
    found = whole.method.loss(s.policy, s.task, every)[0].detach()
    assert ALGEBRA.holds(found, expected, scale=float(expected.max()))


def test_stretches_cover_all_transitions_and_end_in_the_last():
    assert strata(50, 5).tolist() == [12, 12, 12, 13, 1]
    assert strata(4, 4).tolist() == [1, 1, 1, 1]
    index = draw_strata(4000, 50, 5, Draws.seeded([0], DOUBLE))
    edges = strata(50, 5).cumsum(0)
    assert bool((index[:, -1] == 49).all())
    assert index.max(0).values.tolist() == (edges - 1).tolist()
    assert index.min(0).values.tolist() == [0, *edges[:-1].tolist()]
    assert bool((index.diff(dim=1) > 0).all())


def test_the_base_and_the_last_update_as_anchors():
    for anchor in ("base", "previous"):
        s = Setting(f"relative_trajectory_balance:{SHORT},anchor_weight=3,anchor={anchor}")
        plain = Setting(f"relative_trajectory_balance:{SHORT}")
        x = s.x[:, :-1].flatten(0, 1)
        t = s.chain.times.repeat(3)
        model = s.problem.base_field if anchor == "base" else s.policy.reference
        gap = s.student(x, t) - model(x, t)
        expected = plain.losses() + 3 * square(gap).reshape(3, 4).sum(1)
        assert ALGEBRA.holds(s.losses().detach(), expected.detach(), scale=10.0)
    # The old copy has followed: at the next update it is what the student was at this one.
    assert torch.equal(s.policy.old.theta, s.student.theta)
    assert s.policy.old.theta is not s.student.theta


def test_data_of_the_last_update():
    text = f"residual_db:{SHORT},data=previous"
    s = Setting(text)
    fresh = Setting(f"residual_db:{SHORT}")
    before = s.chain.rollout(s.problem.base_field, _noise(s))
    assert torch.equal(s.x, before)  # the student before it was moved
    assert not torch.equal(s.x, fresh.x)
    again = s.method.collect(s.policy, s.task, 3, Draws.seeded([5], DOUBLE))["x"]
    now = s.method.collect(s.policy, s.task, 3, Draws.seeded([5], DOUBLE))["x"]
    assert torch.equal(again, now)


def _noise(s):
    return Draws.seeded([5], DOUBLE).normal(3, 5, s.problem.dim)


def test_smoothing_averages_the_gradients():
    s = Setting(f"residual_nabla_db:{SHORT},smoothing=0.3,smoothing_draws=2,look_ahead=off")
    again = Draws.seeded([5], DOUBLE)
    again.normal(3, 5, 2)
    noise = again.normal(3, 1, 2, 2)[:, 0]
    last = s.x[:, -1]
    expected = sum(gradient(s.log_reward, last + 0.3 * noise[:, i]) for i in (0, 1)) / 2
    assert ALGEBRA.holds(s.batch["terminal"], expected, scale=1.0)


@pytest.mark.parametrize("subset", [0, 3])
def test_without_the_reverse_loss_the_states_ahead_are_the_same(subset):
    """No state is looked at for it, and the others with the noise that they had."""
    text = f"residual_nabla_db:{SHORT},subset={subset},smoothing=0.3,look_ahead=one"
    both, alone = Setting(text), Setting(f"{text},w_backward=0")
    assert torch.equal(both.batch["x"], alone.batch["x"])
    assert not alone.batch["ahead_here"].any()
    assert ALGEBRA.holds(alone.batch["ahead_after"], both.batch["ahead_after"], scale=1.0)
    after = [
        s.method.flows(s.policy, s.task, s.method.walk(s.task, s.batch), s.batch)[1].detach()
        for s in (both, alone)
    ]
    assert ALGEBRA.holds(after[1], after[0], scale=1.0)


def test_trajectories_from_samples_back_have_the_base_chains_marginals():
    n = 20_000
    method = parse_method(f"relative_trajectory_balance:{SHORT}")
    task = ProblemTask([NOTE], dtype=DOUBLE)
    draws, chain = Draws.seeded([1], DOUBLE), method.chain(task)
    data, *_ = task.base_samples(n, draws)
    x = noised_back(chain, data, draws.normal(n, 5, 1))[..., 0]
    alpha, sigma = chain.levels
    mean, variance = float(NOTE.base.expectation()), float(NOTE.base.covariance())
    for k in range(5):
        spread = float((alpha[k] ** 2 * variance + sigma[k] ** 2).sqrt())
        assert abs(float(x[:, k].mean()) - float(alpha[k]) * mean) < 6 * spread / n**0.5
        assert abs(float(x[:, k].std()) / spread - 1) < 6 / n**0.5
    assert bool((x[:, 0].diff() != 0).all())


def test_a_share_of_rows_comes_from_samples():
    s = Setting(f"relative_trajectory_balance:{SHORT},backward=0.5,temper=1.3", rows=8)
    assert s.x.shape == (8, 5, 2)
    assert s.losses().shape == (8,)


# --- networks


def test_flows_begin_with_the_bases_layers():
    """All but the last, which is 0; the student is left as it is, and both can be trained."""
    draws = Draws.seeded([0, 1])
    student = StackedMLP(2, 2, 8, 2, draws)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    task = ProblemTask([PLANE] * 2)
    policy = parse_method(f"residual_nabla_db:{SHORT},flow_start=base").setup(student, task, draws)
    flow = policy.networks["flow"]
    assert not bool(flow(torch.ones(6, 2), torch.zeros(6)).any())
    same = [torch.equal(value, before[name]) for name, value in flow.state_dict().items()]
    assert same.count(False) in (1, 2)  # the last layer's weights and bias
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert {id(p) for p in policy.parameters()} >= {id(p) for p in flow.parameters()}
    assert all(p.requires_grad for p in flow.parameters())


def test_flows_begin_at_zero_and_have_the_events_shape():
    def maker(outputs, draws):
        return StackedMLP(2, outputs, 8, 2, draws)

    task = ProblemTask([PLANE] * 2, auxiliary_maker=maker)
    draws = Draws.seeded([0, 1])
    x, t = torch.ones(6, 2), torch.zeros(6)
    for outputs, shape in (("event", (6, 2)), (1, (6, 1))):
        network = task.auxiliary(outputs, draws, near_zero=True)
        assert network(x, t).shape == shape
        assert not bool(network(x, t).any())
        assert bool(task.auxiliary(outputs, draws)(x, t).all())
