"""Methods by name, or from your own file, with options: the grammar of
theory/common/registry.py, `nft:nft_beta=0.5` or `path/to/my_method.py:strength=2`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from theory.common.registry import Catalogue, Registry, Rows

if TYPE_CHECKING:
    from theory.methods.contract.method import Method


def _checked(method: Any) -> None:
    from theory.methods.contract.returned import attributes

    attributes(method)


REGISTRY: Registry[Method] = Registry(
    "method",
    package="theory.methods",
    base="theory.methods.contract.method:Method",
    without=("contract", "chain"),
    finish=_checked,
)
methods = REGISTRY.items
parse_method = REGISTRY.parse
build = REGISTRY.build


def _measured() -> Rows:
    return [
        {
            "method": name,
            "what": kind.summary,
            "options": kind().options,
            "rewards": str(kind().rewards),
            "source": kind.source,
            "starts_from": kind.starts_from,
        }
        for name, kind in methods().items()
    ]


# Of every built-in method: its summary, its options and their defaults, the rewards that it allows
# with these, its source, and what it starts from.
METHODS = Catalogue(Path(__file__).parent, _measured)
