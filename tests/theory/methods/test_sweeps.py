"""Every method passes the contract's sweep, whoever wrote it; the sweep itself can fail."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import pytest
import torch

from tests.mutants.theory.methods.mutants import at_optimum_of
from theory.common.tolerances import FALSE_FAILURE_RATE
from theory.methods import Method, Optimum
from theory.methods.contract.probe import Check, expected_gradient, sweep
from theory.methods.contract.restoring import return_test
from theory.methods.matching.flow_matching import FlowMatching
from theory.methods.matching.nft import NFT
from theory.methods.policy_gradient.ddpo import DDPO
from theory.methods.registry import build, methods, parse_method
from theory.problems.problem import Problem, load_problem

# A chain short enough for d = 2.
SHORT = {"steps": 4, "sigma_end": 0.1}
EVERYWHERE = [
    "flow_matching:target_velocity=exact",
    "weighted_flow_matching:scale=1",
    "weighted_flow_matching:wrapper=truncated,order=2,scale=1.3",
    "weighted_flow_matching:wrapper=power,exponent=2",
    "tilt_matching:kind=explicit",
    "tilt_matching:kind=implicit,scale=1",
    "tilt_matching:kind=weighted,scale=1.5",
    "ddpo:kl_weight=0.5,steps=4,sigma_end=0.1",
    "adjoint_matching:scale=3,steps=4,sigma_end=0.1",
]
# Kernels of each kind, on the line and in the plane; ancestral ones at these options are swept by
# `test_every_method_there_is`.
ADJOINTS = [
    ("basic_adjoint_matching:scale=3,g=1,steps=4", "note_1d"),
    ("basic_adjoint_matching:scale=3,offset=0.5,steps=5,subset=2", "note_1d"),
    pytest.param(
        "basic_adjoint_matching:scale=3,offset=0.7,steps=4", "bump_2d", marks=pytest.mark.slow
    ),
    ("discrete_adjoint:scale=1.5,reward_scale=2,g=1,steps=3", "bump_2d"),
    ("discrete_adjoint:scale=3,offset=0.5,steps=5", "note_1d"),
    ("adjoint_matching:scale=3,g=1,steps=4", "note_1d"),
    ("adjoint_matching:scale=3,offset=0.5,steps=5", "note_1d"),
    ("adjoint_matching:scale=3,g=1,steps=3,subset=2", "note_1d"),
    ("continuous_adjoint:scale=3,g=1,steps=4", "note_1d"),
    ("continuous_adjoint:scale=3,offset=0.5,steps=4,subset=3", "note_1d"),
]
ON_BUMPS = [
    "nft:nft_beta=0.5",
    "nft:nft_beta=2",
    "nft:nft_beta=0.7,kl_weight=0.6",
    "nft:reward_mapping=released",
    "nft:adaptive_normaliser=x1",
    "nft:adaptive_normaliser=velocity,refresh_every=3,old_decay=0.5",
    "weighted_flow_matching:wrapper=power",
    "weighted_flow_matching:wrapper=truncated",
]
WITHOUT_OPTIMUM = ("released", "adaptive", "refresh", "continuous")
LONG_CHAINS = ["ddpo:kl_weight=0.5", "adjoint_matching"]
CASES = [
    *((text, name) for text in EVERYWHERE for name in ("note_1d", "linear_1d")),
    *((text, "note_1d") for text in ON_BUMPS),
    *((text, "bump_2d") for text in (EVERYWHERE[0], ON_BUMPS[0], EVERYWHERE[-1])),
    pytest.param(LONG_CHAINS[0], "note_1d", marks=pytest.mark.slow),
    (LONG_CHAINS[1], "note_1d"),
    *ADJOINTS,
    ("weighted_flow_matching:wrapper=clipped,max_weight=3", "linear_1d"),
    ("weighted_flow_matching:scale=-1", "linear_1d"),
    *(
        pytest.param(text, name, marks=pytest.mark.slow)
        for text, name in (
            *((text, "bump_2d") for text in (*EVERYWHERE[1:-1], *ON_BUMPS[1:])),
            ("tilt_matching:scale=-0.5", "bumps_1d"),
        )
    ),
]


def failed(checks: list[Check]) -> list[str]:
    return [f"{c.name}: {c.seen}" for c in checks if not c.passed]


def small(kind: type[Method]) -> Method:
    """The method with its defaults; a chain is made short."""
    known = {f.name for f in fields(kind)}
    return build(kind, SHORT if set(SHORT) <= known else {})


def allows(method: Method, problem: Problem) -> bool:
    try:
        method.check_problem(problem)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("text", "problem"), CASES)
def test_sweep(text, problem):
    method, case = parse_method(text), load_problem(problem)
    checks = sweep(method, case)
    assert not failed(checks)
    # A sweep that skips its gradients would pass anything.
    skipped = any(c.seen.startswith("not asked") for c in checks)
    assert skipped == any(word in text for word in WITHOUT_OPTIMUM)


@pytest.mark.slow
@pytest.mark.parametrize("name", methods())
def test_every_method_there_is(name):
    """No list to forget: what discovery finds is swept, on every problem that it allows."""
    method = small(methods()[name])
    cases = [load_problem(problem) for problem in ("note_1d", "linear_1d", "bump_2d")]
    allowed = [case for case in cases if allows(method, case)]
    assert allowed
    for case in allowed:
        assert not failed(sweep(method, case)), case.name


@pytest.mark.parametrize("name", methods())
def test_tables_have_what_they_show(name):
    kind = methods()[name]
    assert kind.name == name
    assert kind.summary
    assert kind.source
    assert kind.__doc__


# --- the sweep can fail


def weighted(method: Method, weight) -> Method:
    """The method with weight(policy, batch) times its losses, and its optimum as it is."""

    def loss(self, policy, task, batch):
        losses, info = type(method).loss(self, policy, task, batch)
        return losses * weight(policy, batch), info

    return type("Weighted", (type(method),), {"loss": loss})(**method.options)


def with_optimum(name: str) -> Method:
    kind = methods()[name]
    return build(kind, SHORT | {"kl_weight": 0.5}) if name == "ddpo" else small(kind)


# Fixed points that take seconds.
SLOW = ("nabla_db", "residual_nabla_db", "dag_db", "residual_db")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in methods()],
)
def test_a_maximum_is_told_from_a_minimum(name):
    """Its expected gradient vanishes at the optimum just the same: the one line that fails."""
    wrong = weighted(with_optimum(name), lambda policy, batch: -1.0)
    (line,) = failed(sweep(wrong, load_problem("note_1d")))
    assert line.startswith("expected gradient leads back to the optimum: least t -")
    assert "leads away" in line


# Losses weighted by a number that depends on state and time: the same optimum, of another kind.
SADDLES = {
    "maximal early": (lambda batch: batch["t"] - 0.4, "student, early bump"),
    "maximal late": (lambda batch: 0.6 - batch["t"], "student, late bump"),
    "maximal to the right": (lambda batch: 0.1 - batch["x"][:, 0], "student, early bump"),
    "maximal to the left": (lambda batch: batch["x"][:, 0] + 0.7, "student, late bump"),
}


@pytest.mark.parametrize("name", SADDLES)
@pytest.mark.parametrize("text", ["flow_matching", "nft", "tilt_matching:kind=explicit"])
def test_a_saddle_is_told_from_a_minimum(text, name):
    method, problem = parse_method(text), load_problem("note_1d")
    weight, where = SADDLES[name]
    test = return_test(
        weighted(method, lambda policy, batch: weight(batch)), problem, method.optimum(problem)
    )
    assert test.statistic < -test.bound
    assert test.where == where


def test_a_direction_without_a_pull_is_no_way_back():
    """Flat along the second coordinate: not told from zero, however many draws are made."""

    class Flat(FlowMatching):
        def loss(self, policy, task, batch):
            error = policy.student(batch["x"], batch["t"], batch["cond"]) - batch["y"]
            return error[:, 0].square(), {}

    problem = load_problem("bump_2d")
    test = return_test(Flat(), problem, Flat().optimum(problem), n=16)
    assert not test.leads_back
    assert "not told from zero" in str(test)


@pytest.mark.parametrize("player", ["student", "value"])
def test_each_player_is_asked_for_its_own_loss(player):
    """DDPO with the gradient of one of its two losses negated: that player's displacement is the
    one that fails."""

    def negated(network):
        return lambda *place: 2 * network(*place).detach() - network(*place)

    class Wrong(DDPO):
        def loss(self, policy, task, batch):
            if player == "student":
                other = replace(policy, student=negated(policy.student))
            else:
                other = replace(policy, networks={"value": negated(policy.networks["value"])})
            return super().loss(other, task, batch)

    method, problem = with_optimum("ddpo"), load_problem("note_1d")
    wrong = Wrong(**method.options)
    test = return_test(wrong, problem, method.optimum(problem))
    assert test.statistic < -test.bound
    assert test.where.startswith(player)


def test_an_optimum_lacks_no_network():
    method, problem = with_optimum("ddpo"), load_problem("note_1d")
    best = replace(method.optimum(problem), networks={})
    said = r"must have a function .*'value' too, got networks \[\]"
    with pytest.raises(ValueError, match=said):
        return_test(method, problem, best)
    with pytest.raises(ValueError, match=said):
        expected_gradient(method, problem, "optimum", best=best)


def test_a_network_of_ones_own_is_refused():
    """The check puts networks to their optimum, and can do so with the task's alone."""

    class Own(DDPO):
        def setup(self, student, task, draws):
            policy = super().setup(student, task, draws)
            policy.networks["value"] = torch.nn.Linear(2, 1)
            return policy

    method, problem = Own(**with_optimum("ddpo").options), load_problem("note_1d")
    with pytest.raises(ValueError, match=r"must train .*got a Linear as networks\['value'\]"):
        return_test(method, problem, method.optimum(problem))


def test_flow_matching_is_told_from_another_field():
    """Its sweep has no reference to reject: the base is what it learns."""
    problem = load_problem("note_1d")
    for text in ("flow_matching", "flow_matching:target_velocity=exact"):
        wrong = at_optimum_of(parse_method(text), Optimum(problem.nft_field(4.0)))
        assert not expected_gradient(wrong, problem, "optimum").vanishes


@dataclass(frozen=True)
class Broken(NFT):
    """NFT with one part of the contract broken."""

    fault: str = ""

    name: ClassVar[str] = "broken"

    def collect(self, policy, task, n, draws):
        if self.fault == "leaves the reference trainable":
            policy.reference.requires_grad_(True)
        batch = super().collect(policy, task, n, draws)
        if self.fault == "keeps the student's graph":
            batch["v_old"] = policy.student(batch["x"], batch["t"])
        return batch

    def loss(self, policy, task, batch):
        losses, info = super().loss(policy, task, batch)
        if self.fault == "a mean over rows":
            return losses.mean(), info
        if self.fault == "float32":
            return losses.float(), info
        if self.fault == "noise in the loss":
            return losses * torch.rand_like(losses), info
        if self.fault == "a mean over all networks":
            return losses / losses.mean(), info
        if self.fault == "a log that is one number":
            return losses, {"reward": batch["r"].mean()}
        if self.fault == "not a number":
            return losses / 0.0 * 0.0, info
        if self.fault == "learns nothing":
            return losses.detach() + 0 * sum(p.sum() for p in policy.parameters()), info
        return losses, info


# What is no loss of the contract's form is refused by name, and the sweep ends there.
REFUSED = {
    "a mean over rows": r"test_sweeps.py: Broken.loss returned losses, a tensor of shape \(\)",
    "a log that is one number": r"test_sweeps.py: Broken.loss returned info\['reward'\], a tensor",
}
FAULTS = {
    "float32": "one finite value a row",
    "not a number": "one finite value a row",
    "noise in the loss": "same batch, same loss",
    "leaves the reference trainable": "no gradient into reference or old copy",
    "a mean over all networks": "networks do not see each other",
    "keeps the student's graph": "the batch carries no gradient",
    "learns nothing": "expected gradient does not vanish at the reference",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_loss_is_refused_by_name(fault):
    with pytest.raises(ValueError, match=REFUSED[fault]):
        sweep(Broken(fault=fault), load_problem("note_1d"))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_method_fails_its_line(fault):
    torch.manual_seed(0)
    problem = load_problem("note_1d")
    assert not failed(sweep(Broken(), problem))
    lines = failed(sweep(Broken(fault=fault), problem))
    assert any(line.startswith(FAULTS[fault]) for line in lines)


def test_false_failures_are_as_rare_as_stated():
    """The bound is Student's: at 48 blocks beyond the normal's, so that chance alone is 1e-6."""
    test = expected_gradient(parse_method("nft"), load_problem("note_1d"), "optimum")
    normal = -torch.special.ndtri(torch.tensor(FALSE_FAILURE_RATE / 12, dtype=torch.float64))
    assert float(normal) < test.bound < 2 * float(normal)
    assert test.vanishes
