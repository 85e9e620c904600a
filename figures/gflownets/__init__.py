"""GFlowNets against what they sample: what `python -m toys gflownets` trained, on a page.

`python -m figures gflownets` reads results/gflownets/gflownets.json, copies the numbers that the
page shows to docs/data/gflownets.json, and writes docs/results/gflownets.md and
docs/images/gflownets/*.png from those alone; `--check` tells whether the committed page is what the
committed numbers give. One module a picture, each with

    TITLE: str                      the picture's alternative text
    draw(numbers) -> Figure         the picture
    text(numbers) -> str            what the page says beside it, Markdown
"""

from __future__ import annotations

NAMES = {
    "nabla_held": "residual nabla-DB, held",
    "nabla_bidirectional": "residual nabla-DB, bidirectional",
    "db_held": "residual DB, held",
    "rtb": "relative trajectory balance",
    "nabla_printed": "residual nabla-DB, as printed",
    "nabla_printed_longer": "residual nabla-DB, longer",
    "db_printed": "residual DB, as printed",
    "nabla_corrected": "residual nabla-DB, corrected",
    "nabla_no_prior": "nabla-DB, no prior",
    "dag_db": "DAG-DB, no prior",
    "tb": "trajectory balance, no prior",
    "adjoint_matching": "Adjoint Matching",
    "ddpo": "DDPO with KL",
    "base": "base, exact",
    "untrained": "untrained network",
}
