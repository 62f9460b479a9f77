"""The report as Markdown, for a repository or an issue; plots are linked."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from prefillshare.bench.plan import Plan
from prefillshare.bench.report.paths import make_portable
from prefillshare.bench.report.table import Table
from prefillshare.bench.report.text import fidelity_rows, summary_line, title_of, value_text
from prefillshare.bench.results import Result


def markdown_report(
    plan: Plan, machine: dict[str, Any], table: Table, results: Sequence[Result], plots: Sequence[str]
) -> str:
    """What was measured where, a table per number of modules and load; `plots` are paths relative to the report."""
    parts = [
        f"# {title_of(plan)}",
        f"```console\n{make_portable(plan.command)}\n```" if plan.command else "",
        summary_line(plan, results),
        *_tables(*table),
        "## Correctness",
        _fidelity(results),
        "## Machine and versions",
        _table(["what", "value"], [[key, value_text(value)] for key, value in machine.items()]),
        "## Plots" if plots else "",
        *(f"![{plot}]({plot})" for plot in plots),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    for (modules, load), of_point in groupby(rows, key=lambda row: (row[0], row[1])):
        yield f"## {modules} module{'' if modules == '1' else 's'}, {load}"
        yield _table(header[2:], [row[2:] for row in of_point])


def _fidelity(results: Sequence[Result]) -> str:
    header, rows = fidelity_rows(results)
    return _table(header, rows) if rows else "No answers were compared with the reference."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
