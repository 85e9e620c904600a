"""One torch thread a process, and the verification's dtype nowhere by default."""

import gc

import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def float32_precision():
    """The process's float32 precision is put back: training chooses its own."""
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


def pytest_collection_modifyitems(items):
    """Tests and files named after mutants are those of `make mutants`."""
    for item in items:
        if "mutant" in item.nodeid:
            item.add_marker(pytest.mark.mutants)


def pytest_collection_finish():
    """What is imported stays: the collector need not walk it again and again."""
    gc.freeze()
