"""The ledger for people and programs: JSON, Markdown (in full, and in short), HTML with its maps.

Everything is rendered from the JSON, so that the committed tables can be rendered again and
compared.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from theory.ledger.core.claim import Result, number
from theory.ledger.core.worst import summary

Row = dict[str, Any]
ROLES = {
    "claim": "claim", "condition": "holds if", "instead": "holds instead", "support": "support"
}  # fmt: skip


def as_json(results: Sequence[Result], profile: str) -> dict[str, Any]:
    """The measured ledger as plain data."""
    return {"profile": profile, "rows": [_row(r) for r in results]}


def _row(result: Result) -> Row:
    claim = result.claim
    searches = {
        f.name: summary(claim.id, f.name) for f in result.findings if summary(claim.id, f.name)
    }
    return {
        "id": claim.id, "source": claim.source, "statement": claim.statement,
        "assumptions": claim.assumptions, "first": claim.first, "second": claim.second,
        "recorded": claim.recorded, "verdict": result.verdict, "remark": claim.remark,
        "findings": [
            {
                "name": f.name, "role": f.role, "kind": f.kind, "holds": bool(f.holds),
                "figure": f.figure, "numbers": plain(f.numbers), "worst": f.worst,
                "mutants": {k: bool(v) for k, v in f.mutants.items()},
            }
            for f in result.findings
        ],
        "searches": plain(searches),
        "region": None if result.region is None else plain(result.region.as_json()),
        "region_figure": None if result.region is None else result.region.figure(),
    }  # fmt: skip


def plain(value: Any) -> Any:
    """JSON has no infinity, no nan, and text keys only."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, int | str):
        return value
    return float(value) if math.isfinite(float(value)) else None


def headline(row: Row) -> str:
    """The row's measurement in one line."""
    claims = [f for f in row["findings"] if f["role"] == "claim"]
    failed = [f for f in claims if not f["holds"]]
    if failed:
        found = failed[0]
        return found["figure"] + (f" ({found['worst']})" if found["worst"] else "")
    orders = [f for f in claims if f["kind"] == "order"]
    if orders:
        return orders[-1]["figure"] if row["id"].startswith("Z") else orders[0]["figure"]
    errors = [f["numbers"]["error"] for f in claims if "error" in f["numbers"]]
    settings = sum(f["numbers"].get("settings", 0) for f in claims)
    text = f"error at most {number(max(errors))}" if errors else claims[0]["figure"]
    if settings:
        text += f" over {settings} settings"
    starts = sum(s["starts"] for s in row["searches"].values())
    if starts:
        worst = max(max(s["errors"], default=0.0) for s in row["searches"].values())
        text += f"; search of the first part, {starts} starts: {number(worst)}"
    return text


def mutants(rows: Sequence[Row]) -> tuple[int, int]:
    """(killed, all) wrong versions."""
    killed = [k for row in rows for f in row["findings"] for k in f["mutants"].values()]
    return sum(killed), len(killed)


# --- Markdown

HOW_TO_READ = (
    (
        "How to read it. A `claim` part that does not hold decides the row: `conditional` where a "
        "part `holds if` an assumption is added, else `false`; `holds instead` and `support` are "
        "no part of the statement. Wrong versions are counted where they are tried, some in "
        "several rows."
    ),
    "",
    (
        "Notation. t = 0 is noise, t = 1 data (the papers' other direction is converted); "
        "X\\_t = alpha X\\_1 + sigma X\\_0, on the rectified-flow path t X\\_1 + (1 - t) X\\_0; "
        "V = alpha' X\\_1 + sigma' X\\_0; v0 = u = E[V given X\\_t]; r the reward, "
        "m\\_t = E[r(X\\_1) given X\\_t], vhat = E[r V given X\\_t] / m\\_t; beta = nft\\_beta, "
        "lambda = 2/beta; eta\\_t = sigma (sigma alpha'/alpha - sigma'), (1 - t)/t on the "
        "rectified-flow path; p\\_old, p^0, pi\\_1 the base; w a guidance weight (Z10) or "
        "eta\\_0/(eta\\_0 + eta\\_1) (Z8, Z9). Problems such as note\\_1d are those of "
        "`python -m theory problems`. Errors of fields are in units of velocity, of laws in nats "
        "(log-ratio) or total variation (TV)."
    ),
)


def _cell(text: str) -> str:
    return _text(text).replace("\n", " ")


def markdown(ledger: dict[str, Any]) -> str:
    """The ledger in full."""
    rows = ledger["rows"]
    killed, total = mutants(rows)
    lines = [
        "# Ledger",
        "",
        (
            f"Measured by `python -m theory verify --profile {ledger['profile']}`; generated, do "
            "not edit (`make ledger`)."
        ),
        "",
        (
            f"{len(rows)} rows; {killed} of {total} wrong versions rejected. A verdict is "
            "measured: `exact` (two independent routes agree to a named tier), `order k` (the "
            "error shrinks like the k-th power), `statistical`, `conditional` (needs an assumption "
            "that the source leaves out), `false`."
        ),
        "",
        *HOW_TO_READ,
        "",
        "| id | source | verdict | measured |",
        "|---|---|---|---|",
    ]
    for row in rows:
        link, source, measured = row["id"].lower(), _cell(row["source"]), _cell(headline(row))
        lines.append(f"| [{row['id']}](#{link}) | {source} | **{row['verdict']}** | {measured} |")
    for row in rows:
        lines += ["", *_section(row)]
    return "\n".join(lines) + "\n"


def _section(row: Row) -> list[str]:
    lines = [
        f"## {row['id']}",
        "",
        f"**{row['verdict']}** · {row['source']}",
        "",
        f"{_text(row['statement'])}",
        "",
        f"- Assumptions: {_text(row['assumptions'])}",
        f"- Routes: {_text(row['first'])}; against {_text(row['second'])}.",
    ]
    if row["remark"]:
        lines.append(f"- {_text(row['remark'])}")
    if row["region_figure"]:
        lines.append(f"- Map ({_text(row['region']['title'])}): {_text(row['region_figure'])}.")
    lines += ["", "| part | role | holds | measured | worst |", "|---|---|---|---|---|"]
    for f in row["findings"]:
        killed = f"; {len(f['mutants'])} wrong versions rejected" if f["mutants"] else ""
        if f["mutants"] and not all(f["mutants"].values()):
            killed = f"; SURVIVED: {', '.join(k for k, v in f['mutants'].items() if not v)}"
        searched = row["searches"].get(f["name"])
        if searched:
            lost = searched.get("gave_up", 0)
            killed += (
                f"; search: {searched['starts']} starts, {searched['evaluations']} problems, "
                + (f"quadrature gave up on {lost}, " if lost else "")
                + f"worst {number(max(searched['errors'], default=0.0))}"
            )
        cells = (f["name"], ROLES[f["role"]], "yes" if f["holds"] else "no", f["figure"] + killed,
                 f["worst"])  # fmt: skip
        lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
    return lines


def _text(text: str) -> str:
    """Prose: characters that Markdown would take for marks."""
    return text.replace("*", "\\*").replace("_", "\\_").replace("|", "\\|").replace("<", "&lt;")


def short_markdown(ledger: dict[str, Any]) -> str:
    """The table of the README."""
    lines = ["| | statement | verdict |", "|---|---|---|"]
    for row in ledger["rows"]:
        statement = _text(row["statement"])
        cells = (f"[{row['id']}](docs/LEDGER.md#{row['id'].lower()})", statement,
                 row["verdict"])  # fmt: skip
        lines.append(f"| {cells[0]} | {cells[1]} | **{cells[2]}** |")
    return "\n".join(lines) + "\n"


# --- HTML

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 1rem; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .5rem; text-align: left;
         vertical-align: top; }
.verdict { font-weight: 600; white-space: nowrap; }
.exact { color: #00664b; } .order, .statistical { color: #005a8f; }
.conditional { color: #8a5a00; } .false, .broken { color: #a33c00; }
section { margin-top: 2.2rem; } img { max-width: 34rem; width: 100%; }
.source, .small { color: #555; }
"""


def page(ledger: dict[str, Any], results: Sequence[Result]) -> str:
    """The ledger as one HTML page, maps included."""
    rows = ledger["rows"]
    killed, total = mutants(rows)
    head = "".join(
        f"<tr><td><a href='#{r['id']}'>{r['id']}</a></td><td>{_e(r['statement'])}</td>"
        f"<td>{_verdict(r)}</td><td>{_e(headline(r))}</td></tr>"
        for r in rows
    )
    body = "".join(_html_section(row, result) for row, result in zip(rows, results, strict=True))
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>Plumbline: the ledger</title><style>{STYLE}</style><h1>The ledger</h1>"
        f"<p>Profile {_e(ledger['profile'])}: {len(rows)} rows, {killed} of {total} wrong versions "
        "rejected.</p><table><tr><th>id</th><th>statement</th><th>verdict</th><th>measured</th>"
        f"</tr>{head}</table>{body}</html>\n"
    )


def _e(text: str) -> str:
    return html.escape(text)


def _verdict(row: Row) -> str:
    kind = row["verdict"].split()[0]
    differs = "" if row["verdict"] == row["recorded"] else f" (recorded: {_e(row['recorded'])})"
    return f"<span class='verdict {kind}'>{_e(row['verdict'])}{differs}</span>"


def _html_section(row: Row, result: Result) -> str:
    parts = "".join(
        f"<tr><td>{_e(f['name'])}</td><td>{ROLES[f['role']]}</td>"
        f"<td>{'yes' if f['holds'] else 'no'}</td><td>{_e(f['figure'])}</td>"
        f"<td class='small'>{_e(f['worst'])}</td><td>{sum(f['mutants'].values())} of "
        f"{len(f['mutants'])}</td></tr>"
        for f in row["findings"]
    )
    picture = ""
    if result.region is not None:
        import matplotlib.pyplot as plt  # which quick profiles, without maps, do not load

        figure, buffer = result.region.draw(), BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        plt.close(figure)
        data = base64.b64encode(buffer.getvalue()).decode()
        text = _e(result.region.figure())
        picture = f"<p><img src='data:image/png;base64,{data}' alt='{text}'><br>{text}</p>"
    return (
        f"<section id='{row['id']}'><h2>{row['id']} {_verdict(row)}</h2>"
        f"<p class='source'>{_e(row['source'])}</p><p>{_e(row['statement'])}</p>"
        f"<p>Assumptions: {_e(row['assumptions'])}<br>Routes: {_e(row['first'])}; against "
        f"{_e(row['second'])}.</p><p>{_e(row['remark'])}</p>{picture}"
        "<table><tr><th>part</th><th>role</th><th>holds</th><th>measured</th><th>worst</th>"
        f"<th>mutants</th></tr>{parts}</table></section>"
    )
