"""What trains together and in which order; work side by side; progress."""

import pytest
import torch

from tests.toys import work
from tests.toys.small import DDPO_KL, configs, stop_at, trained
from theory.common.processes import side_by_side
from theory.common.progress import Progress
from toys.training import schedule
from toys.training.runs import Run
from toys.training.schedule import GROUP_ROWS, MOST_MEMBERS, group_size, plan


def names(stage):
    return [[(c.method, c.problem, c.seed) for c in group.members] for group in stage]


def test_bases_come_first_and_groups_have_one_shape(tmp_path):
    wanted = [
        *configs("nft", 2),
        *configs("nft", 2, problem="bump_2d"),
        *configs("nft", 1, width=9),
        *configs("flow_matching", 2, problem="linear_1d"),
    ]
    bases, rest = plan(tmp_path, wanted)
    base_texts = {c.method for g in bases for c in g.members}
    assert base_texts == {"flow_matching:target_velocity=exact"}
    assert sum(len(g.members) for g in bases) == 5
    found = [m for group in names(rest) for m in group]
    assert sorted(found) == sorted((c.method, c.problem, c.seed) for c in wanted)
    for group in rest:
        first = group.members[0]
        shapes = {(c.method, c.width, c.parsed_problem.dim) for c in group.members}
        assert shapes == {(first.method, first.width, first.parsed_problem.dim)}
    assert len(rest) == 4


def test_networks_on_problems_of_one_dimension_share_a_group(tmp_path):
    wanted = configs("flow_matching", 2) + configs("flow_matching", 2, problem="linear_1d")
    (group,) = plan(tmp_path, wanted)[1]
    assert [c.problem for c in group.members] == ["linear_1d"] * 2 + ["note_1d"] * 2


def test_a_base_that_is_asked_for_trains_once(tmp_path):
    wanted = configs("nft")
    bases, rest = plan(tmp_path, [*wanted, wanted[0].base()])
    assert [len(g.members) for g in bases] == [len(g.members) for g in rest] == [1]
    assert trained(tmp_path, [*wanted, *wanted, wanted[0].base()]) == 2
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_finished_runs_are_not_planned(tmp_path):
    wanted = configs("nft", 3)
    assert trained(tmp_path, wanted[:1]) == 2
    bases, rest = plan(tmp_path, wanted)
    assert [c.seed for g in bases for c in g.members] == [1, 2]
    assert [c.seed for g in rest for c in g.members] == [1, 2]
    assert trained(tmp_path, wanted) == 4
    assert plan(tmp_path, wanted) == [[], []]


def test_begun_groups_are_kept_as_they_were(tmp_path):
    wanted = configs("flow_matching", 4)
    begun = stop_at(tmp_path, wanted[1:3], 5)
    groups = plan(tmp_path, wanted[:2])[1]
    assert {tuple(c.seed for c in g.members) for g in groups} == {(0,), (1, 2)}
    assert begun in groups
    assert plan(tmp_path, wanted[3:])[1][0].members == (wanted[3],)


@pytest.mark.parametrize(
    ("method", "batch", "expected"),
    [
        ("flow_matching", 64, MOST_MEMBERS),
        ("flow_matching", 1024, MOST_MEMBERS),
        ("flow_matching", 2048, 6),
        ("flow_matching", 10 * GROUP_ROWS, 1),
        (DDPO_KL, 1024, 3),
    ],
)
def test_group_sizes_keep_to_the_cache(method, batch, expected):
    (config,) = configs(method, batch=batch)
    assert group_size(config) == expected
    assert expected == 1 or expected * batch * config.parsed.states_per_row <= GROUP_ROWS


def test_large_selections_are_cut_into_groups(tmp_path):
    groups = plan(tmp_path, configs("flow_matching", 5, batch=4096))[1]
    assert sorted(len(g.members) for g in groups) == [2, 3]
    assert len(groups[0].members) == 3  # the longest work first


# --- work side by side


def no_update(part, done, text):
    pass


def test_two_processes_answer_in_order_and_report():
    seen = []
    assert side_by_side(work.slow_first, [0, 1, 2], 2, lambda *e: seen.append(e)) == [0, 1, 4]
    assert ("1", 1, "item 1") in seen


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_is_tried_before_the_first_error(processes, tmp_path):
    items = [(str(tmp_path), i) for i in range(4)]
    with pytest.raises(ValueError, match="one is refused"):
        side_by_side(work.refuse_some, items, processes, no_update)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2", "3"]


def test_the_others_are_trained_where_one_group_fails(tmp_path):
    good, bad = configs("flow_matching"), configs("flow_matching", learning_rate=1e30)
    with pytest.raises(ValueError, match="the loss must stay finite"):
        trained(tmp_path, [*bad, *good])
    assert Run(tmp_path, good[0]).is_finished


def test_a_method_file_trains_in_two_processes(tmp_path, monkeypatch):
    """The pool hands over groups as another process gets them: pickled."""
    import pickle

    def through_pickle(work, items, processes, update):
        return [work(pickle.loads(pickle.dumps(item)), update) for item in items]

    monkeypatch.setattr(schedule, "side_by_side", through_pickle)
    wanted = configs("examples/my_method.py", 2)
    schedule.train(tmp_path, wanted, processes=2)
    assert all(Run(tmp_path, c).is_finished for c in wanted)


# --- progress


def test_lines_in_a_log(capsys, monkeypatch):
    for name in ("FIRST_SECONDS", "LINE_SECONDS"):
        monkeypatch.setattr(f"theory.common.progress.{name}", 0.0)
    with Progress(40, "training") as progress:
        progress.update("a", 10, "a: step 10")
        progress.update("b", 20, "b: step 20")
        progress.update("a", 20, "a: step 20")
    lines = capsys.readouterr().err.splitlines()
    assert [line[:15] for line in lines] == [
        "training:  25 %", "training:  75 %", "training: 100 %",
    ]  # fmt: skip
    assert lines[-1].endswith("0 s left; a: step 20")


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress(2, "training") as progress:
        progress.update("a", 2, "done")
    with Progress(0, "training"):
        pass
    assert progress.parts == {"a": 2}


def test_training_keeps_to_one_thread(tmp_path):
    trained(tmp_path, configs("flow_matching"))
    assert torch.get_num_threads() == 1
