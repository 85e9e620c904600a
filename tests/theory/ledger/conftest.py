"""Fixtures: the made-up rows measured, as JSON, and as committed documents."""

from __future__ import annotations

from typing import Any

import pytest

from tests.theory.ledger.made_up import CLAIMS, MAPPED
from theory.ledger.core.claim import Result
from theory.ledger.report.docs import write_docs
from theory.ledger.report.render import as_json
from theory.ledger.run import measure


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return [measure(claim, MAPPED) for claim in CLAIMS]


@pytest.fixture
def ledger(results) -> dict[str, Any]:
    return as_json(results, "fast")


@pytest.fixture
def root(tmp_path, ledger):
    paths = write_docs(ledger, tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "docs/data/ledger.json",
        "docs/ledger/index.md",
        "docs/ledger/liu.md",
    ]
    return tmp_path
