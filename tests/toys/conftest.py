"""Base networks that train in a moment."""

import pytest

from theory.methods import Budget
from theory.methods.matching.flow_matching import FlowMatching


@pytest.fixture(autouse=True, scope="module")
def cheap_bases():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlowMatching, "budget", Budget(30, 64, 2e-3))
        patch.setattr("toys.training.config.BASE_STEPS", 30)
        yield
