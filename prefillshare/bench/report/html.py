"""The report as one HTML page without anything outside of it."""

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from prefillshare.bench.plan import Plan
from prefillshare.bench.report.table import Table
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
        f"<title>{escape(_title(plan))}</title><style>{_STYLE}</style><body>",
        f"<h1>{escape(_title(plan))}</h1>",
        f"<pre>{escape(plan.command)}</pre>" if plan.command else "",
        f"<p>{escape(_summary(plan, results))}</p>",
        "<h2>Figures</h2>",
        "<p>Medians over the repeats, their range in brackets. The ratios say how many times better the first system "
        "is; below 1 it is worse.</p>",
        f"<div class='scroll'>{_table(*table)}</div>",
        f"<h2>Correctness</h2>{_fidelity(results)}",
        f"<h2>Plots</h2><div class='plots'>{''.join(_image(plot) for plot in plots)}</div>",
        f"<h2>Machine and versions</h2>{_table(['what', 'value'], [[k, _text(v)] for k, v in machine.items()])}",
        f"<h2>Plan</h2><pre>{escape(json.dumps(plan.as_dict(), indent=1))}</pre>",
        f"<h2>Commands</h2>{_commands(results)}",
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _title(plan: Plan) -> str:
    return f"{plan.workload}: {', '.join(plan.system_names)} ({plan.family})"


def _summary(plan: Plan, results: Sequence[Result]) -> str:
    repeats = {len(result.runs) for result in results}
    done = "no run is finished" if not repeats else f"{min(repeats)} to {max(repeats)} of {plan.repeats} repeats"
    return (
        f"Seed {plan.shape.seed}; {done}; each system starts anew per repeat, the systems take turns. "
        f"KV budget of each system: {plan.kv_tokens or 'chosen by the engine'} tokens. "
        f"SLO of the goodput: TTFT {plan.slo.ttft_s:g} s, {plan.slo.gap_s:g} s between tokens."
    )


def _fidelity(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        for found in (run.record.fidelity for run in result.runs if run.record.fidelity):
            where = [str(result.num_modules), result.load.title, result.system]
            rows.append([*where, f"{found['exact']} of {found['compared']}", f"{found['token_agreement']:.4f}"])
    if not rows:
        return "<p>No answers were compared with the reference.</p>"
    header = ["modules", "load", "system", "equal to the reference", "tokens equal up to the first difference"]
    return f"<p>Greedy answers of measured calls against plain transformers + peft.</p>{_table(header, rows)}"


def _commands(results: Sequence[Result]) -> str:
    blocks = []
    for result in {(one.system, one.num_modules): one for one in results}.values():
        lines = "\n\n".join(result.runs[0].commands) or "not started by this measurement"
        blocks.append(f"<h3>{escape(result.system)}, {result.num_modules} modules</h3><pre>{escape(lines)}</pre>")
    return "".join(blocks)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _image(file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return f"<img alt='{escape(file.stem)}' src='data:image/svg+xml;base64,{data}'>"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
