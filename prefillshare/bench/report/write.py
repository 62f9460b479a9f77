"""Writes everything that people read into the directory of a measurement."""

from prefillshare.bench.report.html import html_report
from prefillshare.bench.report.markdown import markdown_report
from prefillshare.bench.report.plots import draw_plots
from prefillshare.bench.report.table import Table, make_table
from prefillshare.bench.results import collect
from prefillshare.bench.runner import Runner
from prefillshare.bench.store import Store


def write_report(store: Store, runner: Runner) -> Table:
    """Write summary.json, plots, report.html and report.md of what is finished; return the table."""
    plan = store.plan()
    results = collect(plan, store, runner)
    table = make_table(results)
    store.write_json("summary.json", [result.as_dict() for result in results])
    plots = draw_plots(results, store.directory / "plots") if results else []
    page = html_report(plan, store.machine(), table, results, plots)
    (store.directory / "report.html").write_text(page, encoding="utf-8")
    linked = [str(plot.relative_to(store.directory)) for plot in plots]
    (store.directory / "report.md").write_text(markdown_report(plan, store.machine(), table, results, linked), "utf-8")
    return table
