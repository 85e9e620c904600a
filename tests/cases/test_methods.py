"""A method of a user's own that is wrong, and what `python -m toys` says of it (A8, C1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from toys.__main__ import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_method.py"
LOSS = 'return batch["accepted"] * square(error), {"accepted": batch["accepted"]}'


def edited(folder: Path, new: str, old: str = LOSS) -> str:
    """examples/my_method.py with its loss's result replaced."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = folder / "mine.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return str(path)


# --- A8


@pytest.mark.parametrize(
    ("new", "failed"),
    [
        (LOSS, ""),
        ('return -batch["accepted"] * square(error), {}', "leads away"),
        ('return (batch["t"] - 0.4) * batch["accepted"] * square(error), {}', "leads away"),
    ],
    ids=["as it is", "a maximum", "a saddle"],
)
def test_a8_check_asks_for_the_way_back(new, failed, tmp_path, capsys):
    """Each has the same stationary point: the expected gradient there vanishes for all three."""
    status = main(["check", "--method", edited(tmp_path, new)])
    rows = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert status == (1 if failed else 0)
    assert len(rows) == status
    assert all("leads back to the optimum" in row and failed in row for row in rows)
