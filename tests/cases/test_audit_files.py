"""Files that the audit read or wrote badly: lost verdicts, late refusals, faults without a name."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from scaleup.__main__ import main
from scaleup.audit import page
from scaleup.audit.gather import Gathered
from theory.audit import audit, audit_data
from theory.audit.data.tables import read_table
from theory.common.files import check_folder

QUICK = ("--wrappers", "linear", "--permutations", "19")


def write(path, move=0.0, n=90, **columns):
    """N(move, 1) rewards of two prompts, and other columns, as CSV."""
    rng = np.random.default_rng(int(10 * move))
    data = {"prompt": ["x", "y"] * (n // 2), "reward": move + rng.normal(size=n), **columns}
    rows = zip(*data.values(), strict=True)
    path.write_text("\n".join([",".join(data), *(",".join(map(str, row)) for row in rows)]))
    return path


def call(capsys, *arguments):
    status = main(["audit", *map(str, arguments), *QUICK])
    return status, *capsys.readouterr()


def pair(folder, base=None, tuned=None):
    return ("--base", write(folder / "base.csv", **(base or {})), "--tuned",
            write(folder / "tuned.csv", 0.6, **(tuned or {})))  # fmt: skip


# --- E4


def test_e4_an_unreadable_picture_loses_no_verdict(tmp_path, capsys):
    rng = np.random.default_rng(0)
    columns = {f"feature{i}": rng.normal(size=90) for i in range(2)}
    files = pair(*([tmp_path] + [columns | {"image": [f"{i}.png" for i in range(90)]}] * 2))
    status, said, err = call(capsys, *files, "--out", tmp_path / "out")
    assert status == 2
    assert "- effective tilt 0." in said
    assert err.splitlines()[-1].startswith("error: image = ")
    found = json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    assert found["conclusive"] is True


def test_e4_a_page_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    def full(path, *_):
        raise OSError(28, f"cannot write {path}: No space left on device")

    monkeypatch.setattr(page, "write_page", full)
    status, said, err = call(capsys, *pair(tmp_path), "--out", tmp_path / "out")
    assert status == 2
    assert "- effective tilt 0." in said
    assert "No space left" in err
    assert (tmp_path / "out" / "audit.json").is_file()


def test_e4_an_out_that_cannot_be_written_is_said_before_the_work(tmp_path, capsys, monkeypatch):
    def never(*_, **__):
        raise AssertionError("samples were read before --out was tried")

    monkeypatch.setattr("theory.audit.data.tables.read_table", never)
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    status, said, err = call(capsys, *pair(tmp_path), "--out", out)
    assert (status, said) == (2, "")
    assert (
        f"--out must be a folder that can be written, new or not, got {str(out)!r} (Not a dir"
        in err
    )
    # One that can is left as it was.
    before = sorted(tmp_path.iterdir())
    check_folder("--out", tmp_path / "new" / "out")
    assert sorted(tmp_path.iterdir()) == before


# --- C4, B7


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet", "a.jsonl"])
def test_c4_a_file_of_no_bytes(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"path must be a .*, got .*a\..*: a file of 0 bytes"):
        read_table(tmp_path / name)


def test_b7_prompts_that_differ_by_a_space(tmp_path, capsys):
    files = pair(tmp_path, tuned={"prompt": ["x ", "Y"] * 45})
    status, _, err = call(capsys, *files, "--out", tmp_path / "out")
    assert status == 2
    assert (
        "must have a prompt in common, got 'x', 'y' and 'Y', 'x ' (2 are alike but for white "
        "space, case or Unicode form)"
    ) in err or "and 'x ', 'Y' (2 are alike but for white space" in err
    with pytest.raises(ValueError, match=r"must have a prompt in common, got 'a' and 'b'$"):
        audit_data([1.0, 2.0], [1.0, 2.0], ["a", "a"], ["b", "b"])


# --- validity at the head of everything


def test_settings_of_both_files_are_compared(tmp_path, capsys):
    ddim = {"scheduler": ["DDIM"] * 90}
    files = pair(
        tmp_path, ddim | {"steps": [20] * 90, "sampler": [""] * 90},
        ddim | {"steps": [20] * 45 + [50] * 45},
    )  # fmt: skip
    _, said, _ = call(capsys, *files, "--out", tmp_path / "out")
    line = next(row for row in said.splitlines() if "one scheduler" in row)
    assert line.endswith("No: scheduler DDIM; steps '20' in base, '20', '50' in tuned")
    found = json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    check = next(c for c in found["validity"] if c["name"] == "sampling")
    assert (check["ok"], check["steps"]) == (False, [["20"], ["20", "50"]])


def test_the_page_begins_with_validity(tmp_path):
    rng = np.random.default_rng(0)
    base, tuned = rng.normal(size=400), rng.normal(size=400) + 0.5
    base[16] = 1e6
    data = audit_data(base, tuned)
    report = audit(data, wrappers=["linear"])
    page.write_page(tmp_path / "a.html", report, Gathered(data, "here", "reward", None))
    text = (tmp_path / "a.html").read_text("utf-8")
    places = [text.index(part) for part in ("Before any conclusion", "<h2>Verdict", "Cannot")]
    assert places == sorted(places)
    assert len(re.findall(r"<tr class='(?:good|bad|open)'>", text)) == len(report.validity)
    assert (
        "<tr class='bad'><td>✗</td><td>Does the tilt stay without the most influential row?" in text
    )


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e153, 1e300])
def test_b9_figures_of_any_unit(size, tmp_path):
    """Before: axes of zeros; numpy's warnings, which are errors here."""
    rng = np.random.default_rng(0)
    prompt = np.arange(400) % 4
    data = audit_data(*(size * (rng.normal(size=400) + move) for move in (0, 0.5)), prompt, prompt)
    report = audit(data, wrappers=["linear"])
    page.write_page(tmp_path / "a.html", report, Gathered(data, "here", "reward", None))
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", (tmp_path / "a.html").read_text("utf-8"))
    assert "0000000" not in text
