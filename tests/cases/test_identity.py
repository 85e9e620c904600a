"""A result is known by all that it was made of: runs gone on with, drawn from, reported."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from figures.shared.fresh import stamp
from scaleup.__main__ import main
from scaleup.audit import page
from scaleup.audit.draw import draw
from scaleup.audit.run_samples import from_run
from scaleup.comparison import sheet
from scaleup.comparison.comparison import compare
from scaleup.comparison.features import Statistics
from scaleup.samples.records import read_samples
from scaleup.samples.samples import SampleSet
from scaleup.training.config import TrainConfig
from scaleup.training.run import run
from tests.scaleup import tiny
from tests.scaleup.work import settings
from theory.common import identity
from theory.common.files import write_atomically
from toys.evaluation.evaluate import code_key as evaluated_key
from toys.experiments.cases.config import CaseConfig
from toys.experiments.cases.runs import measuring_code
from toys.experiments.cases.trainer import Trainer as CaseTrainer
from toys.experiments.control import measuring_key
from toys.experiments.exact_tilt.trial import Trial
from toys.experiments.practice.runs import measuring_key as practice_key
from toys.experiments.practice.tilt import TiltPlan
from toys.training.config import RunConfig
from toys.training.runs import Group

ROOT = Path(__file__).resolve().parents[2]
REWARD = (ROOT / "examples" / "my_reward.py").read_text()


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "p.txt").write_text("a red square\nblue\n")
    return str(tmp_path / "p.txt")


# --- A6: files, by every byte, through links


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of two models that differ in their weights alone."""
    place = tmp_path_factory.mktemp("models")
    return [Path(tiny.save(tiny.sd15(seed=seed), place / str(seed))) for seed in (0, 7)]


def digests(change, **values):
    """A run's digests before and after a change."""
    before = TrainConfig(**values).digest
    assert TrainConfig(**values).digest == before
    change()
    return before, TrainConfig(**values).digest


def test_a6_a_models_subfolder_that_is_a_link(models, prompts, tmp_path):
    """The tree of the case: `ln -s a/* l/`, then l/unet leads to b's."""
    linked = tmp_path / "l"
    linked.mkdir()
    for part in models[0].iterdir():
        (linked / part.name).symlink_to(part)

    def relink(model):
        (linked / "unet").unlink()
        (linked / "unet").symlink_to(model / "unet")

    first, second = digests(lambda: relink(models[1]), model=str(linked), prompts=prompts)
    assert first != second
    relink(models[0])
    assert TrainConfig(model=str(linked), prompts=prompts).digest == first
    # By content: a link is what it leads to.
    copied = Path(shutil.copytree(models[0], tmp_path / "copied"))
    assert identity.content_digest(linked) == identity.content_digest(copied)


def test_a6_a_byte_in_the_middle_of_large_weights(prompts, tmp_path):
    """Neither in the first nor in the last megabyte."""
    weights = tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(3 * 2**20))

    def change():
        with weights.open("r+b") as file:
            file.seek(weights.stat().st_size // 2)
            file.write(b"\1")

    first, second = digests(change, model=str(tmp_path / "m"), prompts=prompts)
    assert first != second


def test_a6_a_model_below_the_home_folder(models, prompts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / "m"
    shutil.copytree(models[0], home)

    def change():
        shutil.rmtree(home)
        shutil.copytree(models[1], home)

    first, second = digests(change, model="~/m", prompts=prompts)
    assert first != second


def test_a6_a_vocabulary_of_another_kind_of_file(prompts, tmp_path):
    """sentencepiece's, of T5: neither .json, .txt nor .safetensors."""
    words = tmp_path / "m" / "tokenizer_3" / "spiece.model"
    words.parent.mkdir(parents=True)
    words.write_bytes(b"one")
    first, second = digests(
        lambda: words.write_bytes(b"two"), model=str(tmp_path / "m"), prompts=prompts
    )
    assert first != second


def test_a6_the_folder_of_a_rewards_model(tmp_path):
    """Also of a term of a sum, also through a link."""
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "model.safetensors").write_bytes(b"one")
    (tmp_path / "link").symlink_to(clip)
    rewards = [f"clip_score:model={tmp_path / name}" for name in ("clip", "link")]
    for number, reward in enumerate((*rewards, f"0.5*redness+0.5*{rewards[0]}")):
        first, second = digests(
            lambda number=number: (clip / "model.safetensors").write_bytes(b"%d" % number),
            reward=reward,
        )
        assert first != second


def test_a6_what_a_reward_file_imports_beside_it(tmp_path, monkeypatch):
    """On and on, and as Python finds it; what is not imported does not count."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_reward.py").write_text(f"{REWARD}\nimport plumbline_one\n")
    (tmp_path / "plumbline_one.py").write_text("def f():\n    from plumbline_two.three import x\n")
    inner = tmp_path / "plumbline_two"
    inner.mkdir()
    for name in ("__init__.py", "three.py", "unused.py"):
        (inner / name).write_text("x = 1\n")
    seen = [TrainConfig(reward=str(tmp_path / "my_reward.py")).digest]
    for name in ("plumbline_one.py", "plumbline_two/__init__.py", "plumbline_two/three.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "y = 2\n")
        seen.append(TrainConfig(reward=str(tmp_path / "my_reward.py")).digest)
    (inner / "unused.py").write_text("x = 2\n")
    assert TrainConfig(reward=str(tmp_path / "my_reward.py")).digest == seen[-1]
    assert len(set(seen)) == 4


# --- A6: code, by what is imported


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the project's sources."""
    folder = tmp_path_factory.mktemp("sources")
    for package in identity.PACKAGES:
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


@pytest.fixture
def tree(copied, monkeypatch):
    """The copy, read instead of the sources; edit(name) edits one until the test is over."""
    monkeypatch.setattr(identity, "ROOT", copied)
    identity.plumbline_code.cache_clear()
    before = {}

    def edit(name):
        before.setdefault(name, (copied / name).read_text())
        (copied / name).write_text((copied / name).read_text() + "\nEDITED = 1\n")
        identity.plumbline_code.cache_clear()

    yield edit
    for name, text in before.items():
        (copied / name).write_text(text)
    identity.plumbline_code.cache_clear()


# All the project's identities, by what they name.
IDENTITIES = {
    "toys run": lambda: RunConfig.checked(method="nft", problem="note_1d").digest,
    "control problem": lambda: CaseConfig("ou_linear", "adjoint_matching").digest,
    "control problem's numbers": measuring_code,
    "practice": lambda: practice_key(TiltPlan(), []),
    "exact tilt": lambda: Trial("note_1d", "implicit", 2.0, 2, 8, 64).digest,
    "evaluation": evaluated_key,
    "control": measuring_key,
    "figure": lambda: stamp("reward_hacking", "small"),
    "scaleup run": lambda: TrainConfig().digest,
}
# What the hand-kept lists left out, and more of its kind; and what only shows a result.
INSIDE = [f"theory/{name}.py" for name in ("tilts/conditional", "tilts/tilt", "fields/cumulants",
                                           "tilts/quadrature", "common/checks", "laws/gaussians",
                                           "methods/contract/draws", "__init__")]  # fmt: skip
OUTSIDE = ["toys/__main__.py", "scaleup/__main__.py", "theory/audit/estimators/tilt.py",
           "figures/note/figure1.py", "theory/ledger/zhu/rows.py"]  # fmt: skip


@pytest.mark.parametrize("what", IDENTITIES)
def test_a6_every_source_in_the_middle_of_the_imports(what, tree):
    found = IDENTITIES[what]
    seen = [found()]
    for name in OUTSIDE:
        tree(name)
    assert found() == seen[0]
    for name in INSIDE:
        tree(name)
        seen.append(found())
    assert len(set(seen)) == 1 + len(INSIDE)


def test_a6_a_methods_own_imports(tree):
    """Those of another method do not count."""
    nft, adjoint = (
        lambda m=m: RunConfig.checked(method=m, problem="note_1d").digest
        for m in ("nft", "adjoint_matching")
    )
    before = nft(), adjoint()
    tree("theory/methods/adjoint/family.py")
    assert (nft(), adjoint() != before[1]) == (before[0], True)


# --- A5, E2: runs


def ran(config, out):
    AcceleratorState._reset_state(True)
    return run(config, out, tensorboard=False)


def drawn(folder, count=8):
    AcceleratorState._reset_state(True)
    draw(folder, count)


@pytest.fixture(scope="module")
def made(models, tmp_path_factory):
    """(place, settings, folder): a finished run on files of its own, which tests may edit."""
    place = tmp_path_factory.mktemp("made")
    (place / "p.txt").write_text("a red square\nblue\n")
    (place / "my_reward.py").write_text(REWARD)
    shutil.copytree(models[0], place / "model")
    names = {"sd15": str(place / "model"), "prompts": str(place / "p.txt")}
    config = settings(
        names, method="ddpo:steps=2", reward=str(place / "my_reward.py"), steps=2,
        checkpoint_every=1,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheet, "_draw", lambda *parts: write_atomically(parts[-1], b"a picture"))
        return place, config, ran(config, place / "out")


@pytest.fixture
def again(made, tmp_path, monkeypatch):
    """(settings, folder), copied; the run's own files are put back afterwards."""
    place, config, folder = made
    monkeypatch.setattr(sheet, "_draw", lambda *parts: write_atomically(parts[-1], b"a picture"))
    kept = tmp_path / "kept"
    shutil.copytree(place, kept, ignore=shutil.ignore_patterns("out"))
    out = tmp_path / "out"
    shutil.copytree(folder, out / folder.name)
    yield config, out / folder.name
    for name in ("p.txt", "my_reward.py"):
        shutil.copy(kept / name, place / name)
    shutil.rmtree(place / "model")
    shutil.copytree(kept / "model", place / "model")


def edit_reward(place, models):
    file = place / "my_reward.py"
    file.write_text(file.read_text().replace("mean((1, 2))", "amax((1, 2))") + "# edited\n")


def edit_prompts(place, models):
    (place / "p.txt").write_text("a red square\ngreen\n")


def edit_model(place, models):
    shutil.rmtree(place / "model" / "unet")
    shutil.copytree(models[1] / "unet", place / "model" / "unet")


CHANGES = {
    "my_reward.py has another content": edit_reward,
    "p.txt has another content": edit_prompts,
    "the model's files have another content": edit_model,
}


@pytest.mark.parametrize("words", CHANGES)
def test_a5_draws_are_held_to_what_the_run_was_made_of(words, made, again, models):
    """Old and new scores are not joined under one label; nothing is drawn."""
    _, folder = again
    CHANGES[words](made[0], models)
    with pytest.raises(ValueError, match=rf"run must be .*: since it was trained, .*{words}; put"):
        drawn(folder)
    assert not (folder / "samples" / "audit_base").exists()


def test_a5_draws_of_other_code_are_not_mixed(again, monkeypatch):
    """A later version may draw, and says where an earlier one did; nothing is removed."""
    _, folder = again
    drawn(folder)
    first = read_samples(folder, "audit_tuned")
    digests = identity.digests

    def other(files):
        found = digests(files)
        return found | {k: "0" for k in found if k == "theory/fields/paths.py"}

    with monkeypatch.context() as patch:
        patch.setattr("scaleup.training.config.digests", other)
        with pytest.raises(ValueError, match=r"audit_base must be .* other code of Plumbline"):
            drawn(folder, 16)
        assert len(read_samples(folder, "audit_tuned")) == len(first) == 8
        for name in ("audit_base", "audit_tuned"):
            shutil.rmtree(folder / "samples" / name)
        drawn(folder)
        assert read_samples(folder, "audit_tuned").made_by != first.made_by
        assert len(from_run(folder, Statistics()).data.base) == 8
    with pytest.raises(ValueError, match="other code of Plumbline"):
        drawn(folder, 16)


def test_a6_a_finished_runs_comparison_is_of_this_code(again, capsys):
    """Made again from its samples where other code made it; the rest stays."""
    config, folder = again
    expected = (folder / "comparison.json").read_bytes()
    (folder / "comparison.json").write_text("{}")
    ran(config, folder.parent)
    assert (folder / "comparison.json").read_text() == "{}"  # the same code: left alone
    done = json.loads((folder / "done.json").read_text())
    (folder / "done.json").write_text(json.dumps(done | {"compared_by": "other code"}))
    ran(config, folder.parent)
    assert (folder / "comparison.json").read_bytes() == expected
    assert json.loads((folder / "done.json").read_text()) == done
    assert capsys.readouterr().out.count("finished before") == 2


def test_a6_a_run_over_another_model_is_another_run(made, again, models, capsys):
    """Neither "finished before" nor gone on with; and it is said why."""
    config, folder = again
    assert ran(TrainConfig(**asdict(config)), folder.parent) == folder
    edit_model(made[0], models)
    other = ran(TrainConfig(**asdict(config)), folder.parent)
    assert other != folder
    said = capsys.readouterr().out
    assert said.count("finished before") == 1
    words = "has these settings and is another run: the model's files have another content"
    assert f"{folder} {words}\n" in said
    pair = [read_samples(f, "base").x1 for f in (folder, other)]
    assert not bool((pair[0] == pair[1]).all())


@pytest.fixture(scope="module")
def reseeded(made):
    """The same configuration with another seed: its folder."""
    place, config, _ = made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheet, "_draw", lambda *parts: write_atomically(parts[-1], b"a picture"))
        return ran(TrainConfig(**asdict(config) | {"seed": 1}), place / "out")


@pytest.mark.parametrize("finished", [True, False])
def test_e2_a_checkpoint_of_another_seed(finished, again, reseeded):
    """Copied into the emptied folder, it is refused; what differs is named."""
    config, folder = again
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(reseeded / "checkpoints", folder / "checkpoints")
    if not finished:
        (folder / "done.json").unlink()
    words = r"must be this run's own, and is another's \(seed = 1, here 0\)"
    with pytest.raises(ValueError, match=rf"step-00000002\.safetensors {words}"):
        drawn(folder) if finished else ran(config, folder.parent)


def test_e2_samples_of_another_seed(again, reseeded):
    """Not reported under this run's name, nor compared with its own: they make room."""
    config, folder = again
    own = read_samples(folder, "tuned")
    shutil.rmtree(folder / "samples" / "tuned")
    shutil.copytree(reseeded / "samples" / "tuned", folder / "samples" / "tuned")
    with pytest.raises(ValueError, match="tuned must be drawn by this run"):
        from_run(folder, Statistics())
    (folder / "done.json").unlink()
    ran(config, folder.parent)
    found = read_samples(folder, "tuned")
    assert found.made_by == own.made_by
    assert bool((found.x1 == own.x1).all())


def test_e2_a_damaged_newest_checkpoint_leaves_a_line(again):
    """In the run's log, where it is found later."""
    config, folder = again
    (folder / "done.json").unlink()
    newest = folder / "checkpoints" / "step-00000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    ran(config, folder.parent)
    (line,) = (folder / "log.txt").read_text().splitlines()
    assert f"{newest}: damaged" in line
    assert line.endswith("going on from step 1 instead")


def test_e2_a_checkpoint_of_other_small_networks(tmp_path):
    """Of a group whose members are others, and of a control problem's run with another seed."""
    groups = [
        Group(tmp_path, (RunConfig.checked(method="nft", problem="note_1d", seed=seed),))
        for seed in (0, 1)
    ]
    groups[1].save(3, {"a": torch.zeros(2)}, torch.zeros(0, 0, 0), "loss")
    groups[0].folder.mkdir(parents=True)
    shutil.copy(groups[1].folder / "checkpoint.safetensors", groups[0].folder)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors.*it is of other runs"):
        groups[0].load()
    assert groups[1].load()[0] == 3
    cases = [CaseConfig("ou_linear", "adjoint_matching", seed=seed) for seed in (0, 1)]
    mine, other = (CaseTrainer(config, tmp_path) for config in cases)
    other.keep()
    shutil.copy(other.place, mine.place)
    with pytest.raises(ValueError, match="it is of other runs"):
        mine.load()
    assert other.load()


# --- E4, E10: what is written


def audited(capsys, *words):
    """Where an audit of files went."""
    assert main(["audit", *map(str, words), "--permutations", "19"]) == 1  # nothing to conclude
    return Path(capsys.readouterr().out.splitlines()[-1]).parent


def test_e4_an_audit_is_not_written_over_another(tmp_path, capsys, monkeypatch):
    """By content and by what is asked; the same audit goes where it went."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "write_page", lambda *_: None)
    for name, value in (("a", 1), ("b", 2)):
        Path(f"{name}.csv").write_text("reward,score\n" + f"{value},{value}\n" * 30)
    same = ("--base", "a.csv", "--tuned", "a.csv")
    first = audited(capsys, *same)
    assert first == Path("results/audit")
    kept = (first / "audit.json").read_bytes()
    assert audited(capsys, *same) == first
    (tmp_path / "moved.csv").write_bytes(Path("a.csv").read_bytes())
    assert audited(capsys, "--base", "moved.csv", "--tuned", tmp_path / "moved.csv") == first
    (first / "audit.json").write_bytes(kept)
    other = ("--base", "b.csv", "--tuned", "b.csv")
    assert audited(capsys, *other) == Path("results/audit-2")
    assert audited(capsys, *same, "--reward-column", "score") == Path("results/audit-3")
    assert audited(capsys, *other) == Path("results/audit-2")
    Path("b.csv").write_text("reward\n" + "3\n" * 30)
    assert audited(capsys, *other) == Path("results/audit-4")
    assert (first / "audit.json").read_bytes() == kept
    # One that does not say what it is of is not this one.
    (first / "audit.json").write_text("{}")
    assert audited(capsys, *same) == Path("results/audit-5")
    # A place that is named is taken.
    assert audited(capsys, *same, "--out", "results/audit") == first


NAME = "a|b<script>*x* [l](u)\n# _h_ `c` $y$ ~z~ &amp; \\"
SHOWN = (
    r"a\|b\<script\>\*x\* \[l\](u) \# \_h\_ \`c\` \$y\$ \~z\~ \&amp; \\"
)  # fmt: skip


def test_e10_a_rewards_name_is_text_in_markdown():
    one = torch.arange(8)
    sets = [
        SampleSet(which, ("", "p"), one, one, torch.ones_like(one), {NAME: rewards.double()})
        for which, rewards in (("base", torch.ones(8)), ("tuned", torch.arange(8)))
    ]
    text = compare(*sets).markdown()
    (row,) = [line for line in text.splitlines() if line.startswith("| reward")]
    assert row.startswith(f"| reward {SHOWN} | 1 ")
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    (note,) = [line for line in text.splitlines() if "constant" in line]
    assert "a\\|b\\<script\\>" in note
    assert "<script>" not in text
