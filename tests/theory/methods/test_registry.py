"""Methods by name and from files: what is found, and what bad input is told."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import theory.methods
from theory.methods import Draws, ProblemTask, RewardDomain
from theory.methods.contract.probe import Perturbed, sweep
from theory.methods.matching.nft import NFT
from theory.methods.registry import build, methods, parse_method
from theory.problems.problem import load_problem
from theory.tilts.bump_rewards import bump_reward

GOOD = '''
from dataclasses import dataclass
from typing import ClassVar, Literal

from theory.methods import Method, Optimum, endpoint_batch, square


@dataclass(frozen=True)
class Tempered(Method):
    """min E[(1 + strength r) |v - Y|^2]."""

    strength: float = 0.5
    repeats: int = 1
    quiet: bool = False
    kind: Literal["one", "two"] = "one"
    name: ClassVar[str] = "tempered"

    def collect(self, policy, task, n, draws):
        return endpoint_batch(task, task.endpoints(n, draws))

    def loss(self, policy, task, batch):
        error = policy.student(batch["x"], batch["t"], batch["cond"]) - batch["y"]
        return (1 + self.strength * batch["r"]) * square(error), {}

    def optimum(self, problem):
        from theory.tilts.wrappers import TruncatedExponential

        return Optimum(problem.tilted_field(TruncatedExponential(self.strength, 1)))
'''


def written(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- what is found


def test_every_name_gives_its_method():
    for name, kind in methods().items():
        method = parse_method(name)
        assert type(method) is kind
        shown = ",".join(f"{option}={getattr(method, option)}" for option in kind.named)
        assert method.label == (f"{name}:{shown}" if shown else name)
        assert parse_method(method.label) == method


@pytest.mark.parametrize(
    "text",
    [
        "nft:nft_beta=0.5",
        "nft:nft_beta=0.123456789012",
        "nft:reward_mapping=released,refresh_every=3,old_decay=0.9",
        "weighted_flow_matching:wrapper=truncated,order=3",
        "tilt_matching:kind=explicit,scale=-1.5",
        "ddpo:kl_weight=0.5,steps=8,sigma_end=0.1",
    ],
)
def test_labels_are_read_back(text):
    assert parse_method(text).label == text
    assert parse_method(parse_method(text).label) == parse_method(text)


def test_a_new_file_among_the_methods_is_found(tmp_path, monkeypatch):
    """No list to extend: what lies in the folder is a method, in sweeps and tables."""
    written(tmp_path, GOOD, "tempered_of_a_test.py")
    monkeypatch.setattr(theory.methods, "__path__", [*theory.methods.__path__, str(tmp_path)])
    assert "tempered" in methods()
    assert parse_method("tempered:strength=2").strength == 2
    monkeypatch.undo()
    assert "tempered" not in methods()


def test_a_file_of_ones_own_passes_the_sweep(tmp_path):
    path = written(tmp_path, GOOD)
    method = parse_method(f"{path}:strength=2,repeats=3,quiet=true,kind=two")
    assert method.options == {"strength": 2.0, "repeats": 3, "quiet": True, "kind": "two"}
    assert method.label == "tempered:strength=2,repeats=3,quiet=true,kind=two"
    checks = sweep(method, load_problem("note_1d"))
    assert all(c.passed for c in checks)
    assert not any(c.seen.startswith("not asked") for c in checks)
    # Its mistakes are found: the weight's sign.
    broken = GOOD.replace("(1 + self.strength", "(1 - self.strength")
    wrong = parse_method(written(tmp_path, broken, "broken.py"))
    assert any(not c.passed for c in sweep(wrong, load_problem("note_1d")))


# --- refusals

TEXTS = {
    "unknown method": (
        "ntf",
        ["method must .*got 'ntf'", "adjoint_matching", "nft", r"ends in \.py"],
    ),
    "empty": ("", ["method must be one of", "got ''"]),
    "unknown option": (
        "nft:beta=1",
        ["option of method 'nft' must .*got 'beta'", "nft_beta", "old_decay"],
    ),
    "no value": ("nft:nft_beta", ["options of method 'nft' must be option=value,.*got 'nft_beta'"]),
    "twice": ("nft:nft_beta=1,nft_beta=2", ["'nft_beta' of method 'nft' is given twice"]),
    "text for a number": (
        "nft:nft_beta=one",
        ["nft_beta of method 'nft' must be a number, got 'one'"],
    ),
    "fraction for a whole": (
        "nft:refresh_every=1.5",
        ["refresh_.* must be a whole number, got '1.5'"],
    ),
    "unknown choice": (
        "tilt_matching:kind=both",
        ["kind of method 'tilt_matching' must .*implicit.*got 'both'"],
    ),
    "zero": ("nft:nft_beta=0", ["method 'nft': nft_beta must be a finite number > 0, got 0.0"]),
    "nan": ("nft:nft_beta=nan", ["nft_beta must be a finite number > 0, got nan"]),
    "decay": ("nft:old_decay=1", [r"old_decay must be a number in \[0, 1\), got 1.0"]),
    "infinite scale": (
        "weighted_flow_matching:scale=inf",
        ["scale must be a finite number, got inf"],
    ),
    "order": ("weighted_flow_matching:order=0", ["order must be a whole number", "got 0"]),
    "order beyond the wrapper's": (
        "weighted_flow_matching:order=40",
        ["order must .*got 40", "1 to 32"],
    ),
    "exponent beyond": (
        "weighted_flow_matching:exponent=33",
        ["exponent must .*got 33", "1 to 32"],
    ),
    "max_weight": ("weighted_flow_matching:max_weight=-1", ["max_weight must .*got -1.0", "> 0"]),
    "KL weight": ("ddpo:kl_weight=-0.5", ["kl_weight must be a finite number >= 0, got -0.5"]),
    "steps": ("ddpo:steps=1", ["steps must be a whole number >= 2, got 1"]),
    "end": (
        "adjoint_matching:sigma_end=0.5",
        ["sigma_end must be less than 0.06667.*got 0.5"],
    ),
    "scale": ("adjoint_matching:scale=-1", ["scale must be a finite number > 0, got -1.0"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_bad_text_is_refused_by_name(name):
    text, needles = TEXTS[name]
    for needle in needles:
        with pytest.raises(ValueError, match=needle):
            parse_method(text)


def test_options_of_another_type_are_refused():
    for options in ({"nft_beta": "1"}, {"nft_beta": True}, {"nft_beta": None}, {"old_decay": "x"}):
        with pytest.raises(ValueError, match=r"method 'nft': .* must be .*, got "):
            build(NFT, options)
    with pytest.raises(ValueError, match=r"of method 'nft' must be one of nft_beta, .*got 'gamma'"):
        build(NFT, {"gamma": 1})


HEAD = """
from dataclasses import dataclass
from typing import ClassVar
from theory.methods import Method
"""
BODY = """
@dataclass(frozen=True)
class Mine(Method):
    name: ClassVar[str] = "mine"

    def collect(self, policy, task, n, draws):
        return {}

    def loss(self, policy, task, batch):
        return None, {}
"""
FILES = {
    "syntax": ("def (:\n", ["cannot be loaded: SyntaxError"]),
    "own error": ("raise RuntimeError('no such network')\n", ["RuntimeError: no such network"]),
    "missing import": ("import no_such_module_here\n", ["ModuleNotFoundError: No module named"]),
    "nothing": ("x = 1\n", ["must define exactly one subclass of Method", "got none"]),
    "imported only": (HEAD, ["must define exactly one subclass of Method", "got none"]),
    "two": (
        HEAD + BODY + BODY.replace("Mine", "Other"),
        [r"got \['Mine', 'Other'\]", "must define exactly one"],
    ),
    "no name": (
        HEAD + BODY.replace('    name: ClassVar[str] = "mine"\n', ""),
        ["Mine lacks name: a Method must have at least name, collect, loss"],
    ),
    "name of another kind": (HEAD + BODY.replace('"mine"', "3"), ["Mine lacks name"]),
    "no collect": (HEAD + BODY.replace("def collect", "def gather"), ["Mine lacks collect"]),
    "no loss": (HEAD + BODY.replace("def loss", "def cost"), ["Mine lacks loss"]),
    "neither": (
        HEAD + "class Mine(Method):\n    pass\n", ["Mine lacks name, collect, loss: a Method must"]
    ),
    "no dataclass": (HEAD + BODY.replace("@dataclass(frozen=True)\n", ""), ["a frozen dataclass"]),
    "not frozen": (HEAD + BODY.replace("(frozen=True)", ""), [r"@dataclass\(frozen=True\)"]),
    "a subclass without its own": (
        "import theory.methods.matching.nft as m\nclass Mine(m.NFT):\n    strength: float = 2.0\n",
        ["Mine must be a frozen dataclass"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_bad_file_is_refused_by_its_path(name, tmp_path):
    text, needles = FILES[name]
    path = written(tmp_path, text)
    for needle in ("mine.py", *needles):
        with pytest.raises(ValueError, match=needle):
            parse_method(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"method = '.*none\.py': no such file"):
        parse_method(str(tmp_path / "none.py"))


def test_a_second_name_for_the_method_is_no_second_method(tmp_path):
    assert parse_method(written(tmp_path, HEAD + BODY + "Alias = Mine\n")).name == "mine"


def test_file_errors_come_through_options_too(tmp_path):
    path = written(tmp_path, GOOD)
    with pytest.raises(ValueError, match=r"of method 'tempered' must be .*stren.*'force'"):
        parse_method(f"{path}:force=1")
    with pytest.raises(ValueError, match=r"quiet of .* must be true or false, got 'yes'"):
        parse_method(f"{path}:quiet=yes")


# --- rewards

NOT_ALLOWED = {
    "nft": (
        "nft",
        "linear_1d",
        [r"problem 'linear_1d'", r"\[-inf, inf\]", r"must have values in \[0, 1\] for nft"],
    ),
    "nft with options": ("nft:nft_beta=0.5", "quadratic_1d", ["'quadratic_1d'", "nft_beta=0.5"]),
    "1 + a r": (
        "weighted_flow_matching:wrapper=truncated",
        "linear_1d",
        [r"1\+2r must be Phi\(r\) >= 0", r"\[-inf, inf\]", "got -inf"],
    ),
    "power": ("weighted_flow_matching:wrapper=power", "linear_1d", ["wrapper r", "must be"]),
    "clip": ("weighted_flow_matching:wrapper=clipped", "note_1d", ["no closed form", "must be"]),
    "negative scale": ("tilt_matching:scale=-20", "note_1d", ["got -20", "must be at least -6"]),
}


@pytest.mark.parametrize("name", NOT_ALLOWED)
def test_problems_outside_the_rewards_allowed_are_refused(name):
    text, problem, needles = NOT_ALLOWED[name]
    for needle in needles:
        with pytest.raises(ValueError, match=needle):
            parse_method(text).check_problem(load_problem(problem))
        with pytest.raises(ValueError, match=needle):
            sweep(parse_method(text), load_problem(problem))


def test_the_released_mapping_allows_any_reward():
    parse_method("nft:reward_mapping=released").check_problem(load_problem("linear_1d"))
    assert str(RewardDomain()) == "any finite values"
    assert str(RewardDomain(differentiable=True)) == "any finite values, differentiable"


class Scaled(ProblemTask):
    """A reward that is not what its problem says."""

    factor = 1.0

    def reward(self, x1, cond=None):
        return self.factor * super().reward(x1, cond)


@pytest.mark.parametrize(
    ("text", "factor", "needles"),
    [
        (
            "nft",
            3.0,
            [r"got values in \[\S+, [12]\.\d+\]", r"must have values in \[0, 1\] for nft"],
        ),
        ("nft", -1.0, [r"got values in \[-\S+", "must have .* for nft"]),
        ("nft", float("nan"), ["nan", "must have .* for nft"]),
        (
            "nft:reward_mapping=released",
            float("inf"),
            ["must have .* for nft:reward_mapping=released"],
        ),
        ("tilt_matching", float("nan"), ["nan", "must have any finite values for tilt_matching"]),
        (
            "weighted_flow_matching:wrapper=power",
            -1.0,
            [r"must have .* for Phi\(r\) of weighted_flow"],
        ),
        (
            "weighted_flow_matching:scale=900",
            1.0,
            ["inf", r"must have .* for Phi\(r\) of weighted"],
        ),
        ("ddpo", float("nan"), ["nan", "must have any finite values for ddpo"]),
        ("adjoint_matching", float("nan"), ["nan", "must have .* for adjoint_matching"]),
    ],
)
def test_reward_values_outside_are_refused_at_collection(text, factor, needles):
    method, problem = parse_method(text), load_problem("note_1d")
    task = Scaled(
        [problem], dtype=torch.float64,
        auxiliary_maker=lambda outputs, draws: Perturbed(lambda x, t, c: x, 1, 1, outputs),
    )  # fmt: skip
    draws = Draws.seeded([0], torch.float64)
    policy = method.setup(Perturbed(problem.base_field, 1, 1, 1), task, draws)
    if text != "weighted_flow_matching:scale=900":
        method.collect(policy, task, 256, draws)  # as it is, the reward is allowed
    task.factor = factor
    for needle in needles:
        with pytest.raises(ValueError, match=needle):
            method.collect(policy, task, 256, draws)


def test_bounds_allow_for_how_they_are_found():
    """Bounds come from a search: a hair beyond 1 is no refusal, a thousandth is."""
    nft, problem = parse_method("nft"), load_problem("note_1d")
    domain = nft.rewards
    assert domain.holds(0.0, 1 + 1e-9)
    domain.check_values(torch.tensor([0.0, 1 + 1e-9]), "nft")
    high = dataclasses.replace(problem, name="own", reward=bump_reward(1.001, [2.0], width=1.0))
    with pytest.raises(ValueError, match=r"problem 'own' must have .*got values in \[0, 1.001\]"):
        nft.check_problem(high)
    nft.check_problem(problem)
