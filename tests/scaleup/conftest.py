"""Tiny pipelines on disk, once a session; every test starts with accelerate as if imported anew."""

import pytest
from accelerate.state import AcceleratorState

from tests.scaleup import tiny

PROMPTS = ("a red square", "blue", "two green dogs")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """{"sd15": folder, "sd3": folder, "prompts": a .txt file}."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    found = {
        kind: tiny.save(make(), root / kind)
        for kind, make in (("sd15", tiny.sd15), ("sd3", tiny.sd3))
    }
    return {**found, "prompts": str(root / "prompts.txt")}


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """It holds one precision and one device for the whole process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
