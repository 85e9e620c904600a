"""What the GFlowNet methods refuse, and the target of those without a prior."""

from __future__ import annotations

import pytest

from tests.helpers import tensor
from tests.theory.methods.test_gflownet import DOUBLE, NOTE, SHORT, random
from theory.common.tolerances import ALGEBRA
from theory.methods import Draws, ProblemTask
from theory.methods.contract.perturbed import Perturbed
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem
from toys.evaluation.evaluate import claimed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("residual_nabla_db:scale=0", "scale must be"),
        ("residual_nabla_db:prior=0", "prior must be"),
        ("residual_nabla_db:form=plain,scale=1.5", "scale over .* a whole number .*got 1.5"),
        ("residual_nabla_db:look_ahead=two", "look_ahead .* must be one of"),
        ("residual_nabla_db:subset=1", "subset must be"),
        ("residual_nabla_db:subset=17", "subset must be"),
        ("residual_nabla_db:w_forward=0", "w_forward must be"),
        ("residual_nabla_db:w_backward=-1", "w_backward must be"),
        ("residual_nabla_db:smoothing_draws=3", "smoothing_draws must come with smoothing"),
        ("residual_nabla_db:held=true,second_order=true", "held must come with"),
        ("residual_nabla_db:held=true,w_backward=0", "held must come with"),
        ("residual_nabla_db:bidirectional=true,subset=4", "bidirectional must come with"),
        ("residual_nabla_db:bidirectional=true,flow_start=base", "bidirectional must come with"),
        ("residual_nabla_db:flow_start=old", "flow_start .* must be new or base"),
        ("residual_nabla_db:anchor=base", "anchor must come with anchor_weight"),
        ("residual_nabla_db:anchor_weight=-1", "anchor_weight must be"),
        ("relative_trajectory_balance:temper=0", "temper must be"),
        ("relative_trajectory_balance:backward=1", "backward must be"),
    ],
)
def test_options_out_of_range(text, said):
    with pytest.raises(ValueError, match=said):
        parse_method(text)


def test_rewards_and_targets_that_are_refused():
    for name in ("nabla_db:form=log", "dag_db:form=log", "trajectory_balance:form=log"):
        with pytest.raises(ValueError, match="must be an integrable Gaussian sum"):
            parse_method(name).check_problem(NOTE)
    quadratic = load_problem("quadratic_1d")
    with pytest.raises(ValueError, match="the reward of problem 'quadratic_1d' must have"):
        parse_method("residual_db:form=plain").check_problem(quadratic)


def test_a_reward_that_is_not_positive_or_has_no_gradient():
    method = parse_method(f"residual_db:{SHORT},form=plain")
    task = ProblemTask([NOTE], dtype=DOUBLE, auxiliary_maker=lambda o, _: random(NOTE, o, 1))
    policy = method.setup(Perturbed(NOTE.base_field, 1, 1, 1), task, Draws.seeded([0], DOUBLE))
    task.reward = lambda x, cond=None: x[:, 0]
    with pytest.raises(ValueError, match="the reward must be > 0"):
        method.collect(policy, task, 64, Draws.seeded([0], DOUBLE))
    method = parse_method(f"residual_nabla_db:{SHORT}")
    task.reward = lambda x, cond=None: x[:, 0].detach()
    with pytest.raises(ValueError, match="the reward has no gradient"):
        method.collect(policy, task, 64, Draws.seeded([0], DOUBLE))


def test_without_a_prior_a_chain_starts_at_pure_noise():
    task = ProblemTask([NOTE], dtype=DOUBLE, auxiliary_maker=lambda o, _: random(NOTE, o, 1))
    task.first_time, task.start_std = 0.1, 1.0
    student, draws = Perturbed(NOTE.base_field, 1, 1, 1), Draws.seeded([0], DOUBLE)
    for name in ("nabla_db", "dag_db", "trajectory_balance"):
        with pytest.raises(ValueError, match=r"starts at pure noise.*from t = 0\.1"):
            parse_method(name).setup(student, task, draws)
    parse_method("residual_nabla_db").setup(student, task, draws)


def test_a_student_that_no_flow_can_begin_from():
    task = ProblemTask([NOTE], dtype=DOUBLE, auxiliary_maker=lambda o, _: random(NOTE, o, 1))
    student = Perturbed(NOTE.base_field, 1, 1, 1)
    with pytest.raises(ValueError, match="flow_start must be 'new' for a Perturbed"):
        parse_method("nabla_db:flow_start=base").setup(student, task, Draws.seeded([0], DOUBLE))


def test_a_task_without_auxiliary_networks():
    task = ProblemTask([NOTE], dtype=DOUBLE)
    student = Perturbed(NOTE.base_field, 1, 1, 1)
    for name in ("residual_nabla_db", "residual_db", "relative_trajectory_balance"):
        with pytest.raises(NotImplementedError, match="makes no auxiliary networks"):
            parse_method(name).setup(student, task, Draws.seeded([0], DOUBLE))


def test_the_target_without_a_prior_is_the_reward_alone():
    target = parse_method("dag_db:scale=2").target(NOTE)
    assert claimed(target) == "r^2"
    x = tensor([[0.3], [2.0], [3.1]])
    density = target.log_density(x) - 2 * NOTE.reward(x).log()
    assert ALGEBRA.holds(density, density[:1].expand(3), scale=1.0)
