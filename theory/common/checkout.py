"""What stands in a checkout and is not installed: benchmarks/."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def benchmark(name: str) -> ModuleType:
    """benchmarks.NAME, from whatever folder the command is run.

    Raises:
        ValueError: the project is installed without its checkout.
    """
    if not (ROOT / "benchmarks" / "__init__.py").is_file():
        raise ValueError(
            "bench measures the floors in a checkout: allowed is `python -m ... bench` there, "
            f"{ROOT} has no benchmarks/"
        )
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    return import_module(f"benchmarks.{name}")
