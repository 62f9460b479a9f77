"""The report as one HTML page without anything outside of it."""

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from prefillshare.bench.plan import Plan
from prefillshare.bench.report.paths import make_portable
from prefillshare.bench.report.table import Table
from prefillshare.bench.report.text import fidelity_rows, summary_line, title_of, value_text
from prefillshare.bench.results import Result

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid #ddd; }
.scroll { overflow-x: auto; } .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); }
img { width: 100%; } pre { background: #f5f5f5; padding: 0.7rem; overflow-x: auto; font-size: 0.8rem; }
"""


def html_report(
    plan: Plan, machine: dict[str, Any], table: Table, results: Sequence[Result], plots: Sequence[Path]
) -> str:
    """The page: what was measured where, the table, the plots, the commands."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>{escape(title_of(plan))}</title><style>{_STYLE}</style><body>",
        f"<h1>{escape(title_of(plan))}</h1>",
        f"<pre>{escape(make_portable(plan.command))}</pre>" if plan.command else "",
        f"<p>{escape(summary_line(plan, results))}</p>",
        "<h2>Figures</h2>",
        f"<div class='scroll'>{_table(*table)}</div>",
        f"<h2>Correctness</h2>{_fidelity(results)}",
        f"<h2>Plots</h2><div class='plots'>{''.join(_image(plot) for plot in plots)}</div>",
        f"<h2>Machine and versions</h2>{_table(['what', 'value'], [[k, value_text(v)] for k, v in machine.items()])}",
        f"<h2>Plan</h2><pre>{escape(json.dumps(plan.as_dict(), indent=1))}</pre>",
        f"<h2>Commands</h2>{_commands(results)}",
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _fidelity(results: Sequence[Result]) -> str:
    header, rows = fidelity_rows(results)
    if not rows:
        return "<p>No answers were compared with the reference.</p>"
    return f"<p>Greedy answers of measured calls against plain transformers + peft.</p>{_table(header, rows)}"


def _commands(results: Sequence[Result]) -> str:
    blocks = []
    for result in {(result.system, result.num_modules): result for result in results}.values():
        lines = "\n\n".join(result.runs[0].commands) or "not started by this measurement"
        blocks.append(
            f"<h3>{escape(result.system)}, {result.num_modules} modules</h3><pre>{escape(make_portable(lines))}</pre>"
        )
    return "".join(blocks)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _image(file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return f"<img alt='{escape(file.stem)}' src='data:image/svg+xml;base64,{data}'>"
