"""Named cases as chains to simulate: their costs, and trajectories of their optimum."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE
from theory.control.adjoints import rollout
from theory.control.cases import CASES, control_case
from theory.control.processes import OptimalChain, case_process, case_starts, path_costs


def bound(comparisons=1):
    """|z| that so many comparisons exceed at the false-failure rate."""
    return float(-ndtri(FALSE_FAILURE_RATE / (2 * comparisons)))


STEPS, COUNT = 64, 1000


def numbers(seed, *shape):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def still(x, t):
    return torch.zeros_like(x)


@pytest.fixture(scope="module", params=["ou_quadratic", "double_well_10d"])
def case(request):
    return control_case(request.param)


@pytest.fixture(scope="module")
def chain(case):
    return OptimalChain(case, STEPS)


@pytest.fixture(scope="module")
def paths(case, chain):
    return chain.paths(numbers(0, COUNT, STEPS + 1, case.dim))


def test_drift_and_costs_are_the_cases(case):
    process, x = case_process(case, still), numbers(1, 7, case.dim)
    if case.name.startswith("ou"):
        A, F, Q = case.matrix(0.3), case.running_matrix, case.final_matrix
        drift = np.stack([A @ row for row in x.numpy()])
        running = [0.5 * row @ F @ row + case.running_vector @ row for row in x.numpy()]
        final = [0.5 * row @ Q @ row + case.final_vector @ row for row in x.numpy()]
        assert ALGEBRA.holds(process.running(x, 0.3), running, 1.0)
    else:
        wells = [zip(case.nu, row, strict=True) for row in x.numpy()]
        final = [sum(n * (v - 1) ** 2 for n, v in well) for well in wells]
        # The drift is minus the slope of sum kappa_i (x_i^2 - 1)^2.
        y = x.clone().requires_grad_(True)
        (torch.as_tensor(case.kappa) * (y**2 - 1) ** 2).sum().backward()
        drift = -y.grad
        assert process.running is None
    assert ALGEBRA.holds(process.drift(x, 0.3), drift, 1.0)
    assert ALGEBRA.holds(process.final(x), final, 1.0)
    assert process.drift(x.float(), 0.3).dtype == torch.float32


@pytest.mark.parametrize("name", CASES)
def test_starts_have_the_cases_law(name):
    case = control_case(name)
    x = case_starts(case, numbers(2, 4000, case.dim)).numpy()
    if name.startswith("double"):
        assert (x == case.begin).all()
        return
    z = (x.mean(0) - case.mean) / np.sqrt(np.diag(case.cov) / len(x))
    assert np.abs(z).max() < bound(case.dim)
    whitened = np.linalg.solve(np.linalg.cholesky(case.cov), (x - case.mean).T)
    spread = np.sqrt((1 + np.eye(case.dim)) / len(x))
    z = (np.cov(whitened) - np.eye(case.dim)) / spread
    assert np.abs(z).max() < bound(case.dim**2)


def steered(chain, share, seed=3):
    """z of the mean cost against the least one, under a share of the chain's control."""

    def control(x, t):
        return share * torch.as_tensor(chain.optimum.control(x.numpy(), round(t * STEPS)))

    process = case_process(chain.case, control)
    noise = numbers(seed, COUNT, STEPS + 1, chain.case.dim)
    states = rollout(process, chain.times, case_starts(chain.case, noise[:, 0]), noise[:, 1:])
    costs = path_costs(process, chain.times, states)
    return float((costs.mean() - chain.least_cost) / costs.std() * len(costs) ** 0.5)


def test_the_optimum_has_the_least_cost(chain):
    """By simulation with other noise; less or more control costs more."""
    assert abs(steered(chain, 1.0)) < bound()
    for share in (0.5, 1.5):
        assert steered(chain, share) > bound()


@pytest.mark.slow
def test_paths_are_those_of_the_optimum(case, chain, paths):
    noise = numbers(0, COUNT, STEPS + 1, case.dim)
    x = case_starts(case, noise[:, 0])
    process = case_process(case, still)
    assert paths.states.shape[1] == STEPS + 1 == paths.best.shape[1] + 1
    for k in (0, 1, 40):
        assert k > 1 or ALGEBRA.holds(paths.states[:, k], x, 1.0)
        u = chain.optimum.control(paths.states[:, k].numpy(), k)
        assert ALGEBRA.holds(paths.best[:, k], u, 1.0)
        t = float(chain.times[k])
        there = case.control(paths.states[:, k].numpy(), t)
        assert ALGEBRA.holds(paths.continuous[:, k], there, 1.0)
        x = x + (process.drift(x, t) + torch.as_tensor(u)) / STEPS + noise[:, 1] / STEPS**0.5


def test_least_cost_and_distance_of_a_linear_quadratic_chain():
    """By moments, with no trajectory."""
    chain = OptimalChain(control_case("ou_unstable"), STEPS)
    case, optimum = chain.case, chain.optimum
    paths = chain.paths(numbers(4, COUNT, STEPS + 1, case.dim))
    gap, size = (u.square().sum((1, 2)) for u in (paths.continuous - paths.best, paths.best))
    rest = gap - optimum.distance() * size
    assert abs(float(rest.mean() / rest.std())) * COUNT**0.5 < bound()
    rest = gap - 1.5 * optimum.distance() * size
    assert abs(float(rest.mean() / rest.std())) * COUNT**0.5 > bound()
    spread = 0.5 * np.trace(optimum.matrix @ case.cov)
    assert ALGEBRA.holds(chain.least_cost, optimum.value(case.mean[None])[0] + spread, 1.0)


def test_costs_count_every_term():
    case = control_case("ou_quadratic")
    process = case_process(case, lambda x, t: 2 * x + t)
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    states = numbers(5, 4, 3, case.dim)
    by_hand = process.final(states[:, 2])
    for k, (t, dt) in enumerate([(0.0, 0.3), (0.3, 0.7)]):
        u = 2 * states[:, k] + t
        by_hand = by_hand + dt * (0.5 * (u**2).sum(1) + process.running(states[:, k], t))
    assert ALGEBRA.holds(path_costs(process, times, states), by_hand, 1.0)
    quiet = replace(process, running=None)
    assert not ALGEBRA.holds(path_costs(quiet, times, states), by_hand, 1.0)


def test_bad_input():
    chain = OptimalChain(control_case("ou_linear"), 4)
    with pytest.raises(ValueError, match=r"noise must have shape \(n, 5, 10\), got \(3, 4, 10\)"):
        chain.paths(numbers(0, 3, 4, 10))
    with pytest.raises(ValueError, match=r"steps must .*got 0"):
        OptimalChain(chain.case, 0)
    with pytest.raises(ValueError, match="steps must be more than 16 for double_well_10d"):
        OptimalChain(control_case("double_well_10d"), 16)
    with pytest.raises(ValueError, match=r"'ou_linear' must begin at t = 0, got t = 0.1"):
        OptimalChain(replace(chain.case, start=0.1), 4)
    with pytest.raises(ValueError, match="states must have shape"):
        path_costs(case_process(chain.case, still), torch.tensor([0.0, 1.0]), numbers(0, 3, 3, 10))
