"""Decode modules: what sharing gives each of them, and how fast it answers."""

from dataclasses import asdict, dataclass

from prefillshare_tui import words
from prefillshare_tui.parts import Line, line, split_bar
from prefillshare_tui.snapshot import Module
from prefillshare_tui.tables.base import Column, Table
from prefillshare_tui.totals import HitSplit, Quantile, hits, totals_of_module
from prefillshare_tui.view import NOTHING, Activity, View

_BAR_CELLS = 10


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """A module and what it did within the window."""

    module: Module
    """As the server describes it."""
    activity: Activity
    """Within the window."""

    @property
    def hits(self) -> HitSplit | None:
        """Its prompt tokens within the window."""
        return self.activity.hits


def _rows(view: View) -> list[ModuleRow]:
    return [ModuleRow(module, view.modules.get(module.name, NOTHING)) for module in view.snapshot.modules]


def _name(row: ModuleRow) -> Line:
    # In front, where a narrow column does not cut it off.
    mark = line(("! ", "bad")) if row.module.warning else ()
    base = line((" (base)", "dim")) if row.module.is_prefill_module else ()
    return mark + line((row.module.name, "strong")) + base


def _ratio(row: ModuleRow) -> float | None:
    return row.hits.ratio if row.hits else None


def _cross(row: ModuleRow) -> float | None:
    return row.hits.cross / row.hits.prompt if row.hits else None


def _own(row: ModuleRow) -> float | None:
    return row.hits.own / row.hits.prompt if row.hits else None


def _seconds(value: Quantile | None) -> float | None:
    return value.seconds if value else None


def _errors(row: ModuleRow) -> Line:
    errors = row.module.errors
    return line((words.short(errors), "bad" if errors else "dim"))


def _detail(row: ModuleRow, view: View) -> tuple[Line, ...]:
    module, activity = row.module, row.activity
    split, avoidable = hits(totals_of_module(module)), module.avoidable_tokens
    since = line(
        (module.name, "strong"),
        f" since the start: {words.exact(module.requests)} calls, {words.exact(module.errors)} failed, "
        f"{words.exact(module.refused)} refused, {words.exact(module.aborted)} given up; "
        f"generated {words.exact(module.generated_tokens)} tokens",
    )
    prompts = line(
        f"prompt {words.exact(module.prompt_tokens)} tokens: own ",
        (words.exact(module.own_hit_tokens), "own"),
        ", cross-module ",
        (words.exact(module.cross_hit_tokens), "cross"),
        ", missed ",
        words.exact(split.missed if split else None),
        *((", which sharing would lessen by ", (words.exact(avoidable), "warn")) if avoidable else ()),
    )
    latency = "; ".join(
        f"{title} {words.quantile(activity.quantile(name, 0.5))} / {words.quantile(activity.quantile(name, 0.95))} / "
        f"{words.quantile(activity.quantile(name, 0.99))}"
        for name, title in (("ttft", "TTFT"), ("itl", "ITL"), ("e2e", "end to end"))
    )
    # First, since a narrow panel has no room for the last line.
    warning = (line((f"! {module.warning}", "bad")),) if module.warning else ()
    return *warning, since, prompts, line(("p50 / p95 / p99  ", "dim"), latency)


def _quantile_column(title: str, histogram: str, share: float, priority: int = 0) -> Column[ModuleRow]:
    return Column(
        title=title,
        width=8,
        cell=lambda row: line(words.quantile(row.activity.quantile(histogram, share))),
        sort_key=lambda row: _seconds(row.activity.quantile(histogram, share)),
        priority=priority,
    )


MODULES: Table[ModuleRow] = Table(
    name="modules",
    columns=(
        Column(
            title="Module",
            width=12,
            cell=_name,
            sort_key=lambda row: row.module.name,
            align="left",
            is_flexible=True,
            is_name=True,
        ),
        Column(
            title="Kind",
            width=4,
            cell=lambda row: line(row.module.kind),
            sort_key=lambda row: row.module.kind,
            align="left",
            priority=6,
        ),
        Column(
            title="Prompts",
            width=_BAR_CELLS,
            cell=lambda row: split_bar(row.hits, _BAR_CELLS),
            sort_key=lambda row: row.hits.prompt if row.hits else None,
            align="left",
        ),
        Column(title="Saved", width=5, cell=lambda row: line((words.percent(_ratio(row)), "strong")), sort_key=_ratio),
        Column(title="Cross", width=5, cell=lambda row: line((words.percent(_cross(row)), "cross")), sort_key=_cross),
        Column(
            title="Own", width=5, cell=lambda row: line((words.percent(_own(row)), "own")), sort_key=_own, priority=4
        ),
        Column(
            title="Calls/s",
            width=7,
            cell=lambda row: line(words.short(row.activity.rate("requests"))),
            sort_key=lambda row: row.activity.rate("requests"),
            priority=2,
        ),
        Column(
            title="Tok/s",
            width=6,
            cell=lambda row: line(words.short(row.activity.rate("generated_tokens"))),
            sort_key=lambda row: row.activity.rate("generated_tokens"),
        ),
        _quantile_column("TTFT p50", "ttft", 0.5, priority=5),
        _quantile_column("TTFT p95", "ttft", 0.95),
        _quantile_column("ITL p50", "itl", 0.5, priority=7),
        _quantile_column("E2E p95", "e2e", 0.95, priority=3),
        Column(
            title="Run",
            width=4,
            cell=lambda row: line(words.short(row.module.running)),
            sort_key=lambda row: row.module.running,
        ),
        Column(
            title="Queue",
            width=5,
            cell=lambda row: line(words.short(row.module.queued)),
            sort_key=lambda row: row.module.queued,
            priority=1,
        ),
        Column(title="Fail", width=4, cell=_errors, sort_key=lambda row: row.module.errors, priority=1),
    ),
    rows=_rows,
    key=lambda row: row.module.name,
    detail=_detail,
    record=lambda row: asdict(row.module),
    empty="The deployment names no modules.",
)
