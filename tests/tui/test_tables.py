"""Rows in order, columns that fit, and what is said of a row."""

import dataclasses
from collections.abc import Sequence
from typing import get_args

import pytest

from prefillshare.observe.document import EventKind
from prefillshare_tui import words
from prefillshare_tui.history import SPANS_S, History
from prefillshare_tui.overview import hits_lines, latency_lines, load_lines, memory_lines
from prefillshare_tui.parts import as_text, memory_bar, split_bar
from prefillshare_tui.snapshot import (
    Admission,
    Divergence,
    Eager,
    EagerJobs,
    Event,
    Kv,
    Push,
    Session,
    Snapshot,
    Store,
    Worker,
)
from prefillshare_tui.tables.base import arrange, fit
from prefillshare_tui.tables.events import EVENTS, EventRow
from prefillshare_tui.tables.modules import MODULES
from prefillshare_tui.tables.sessions import SESSIONS, SessionRow
from prefillshare_tui.tables.tenants import TENANTS
from prefillshare_tui.tables.workers import WORKERS
from prefillshare_tui.totals import HitSplit
from prefillshare_tui.view import View, view_of_window
from tests.support.dashboard import snapshots

TABLES = (MODULES, WORKERS, SESSIONS, EVENTS, TENANTS)
NOW = 1000.0


def view_of(states: Sequence[Snapshot]) -> View:
    history = History()
    for state in states:
        history.add(state)
    return view_of_window(states[-1], history, SPANS_S[0])


@pytest.fixture(scope="module")
def view() -> View:
    return view_of(snapshots(40, num_workers=6, num_tenants=5))


def row(**fields: object) -> SessionRow:
    return SessionRow(Session(id=str(fields.pop("id", "s")), **fields), NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize("width", [76, 116, 196])
def test_the_columns_fit_and_use_the_width(table, width: int, view: View) -> None:  # type: ignore[no-untyped-def]
    columns = fit(table.columns, width)
    assert sum(cells + 2 for _, cells in columns) - 2 <= width
    assert columns[0][0] is table.columns[0]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_cell_and_sentence_can_be_written(table, view: View) -> None:  # type: ignore[no-untyped-def]
    rows = table.rows(view)
    assert rows
    for row in rows:
        assert [as_text(column.cell(row)) for column in table.columns]
        assert all(as_text(text) for text in table.detail(row, view))
    assert len({table.key(row) for row in rows}) == len(rows)


@pytest.mark.parametrize("seconds", [14 * 60 + 31, 23 * 3600 + 59 * 60, 99 * 86400 + 23 * 3600])
def test_times_are_not_cut(seconds: int) -> None:
    for table, title, old in (
        (SESSIONS, "Idle", row(last_seen=NOW - seconds)),
        (EVENTS, "Ago", EventRow(Event(id=1, time=NOW - seconds), NOW)),
    ):
        column = next(column for column in table.columns if column.title == title)
        assert as_text(column.cell(old)).strip() == words.span(seconds)
        assert len(words.span(seconds)) <= column.width


@pytest.mark.parametrize("kind", get_args(EventKind))
def test_kinds_of_events_are_not_cut(kind: str) -> None:
    column = next(column for column in EVENTS.columns if column.title == "Kind")
    assert len(as_text(column.cell(EventRow(Event(id=1, kind=kind), NOW)))) <= column.width


def test_a_worker_says_what_it_computed_ahead_where_it_does() -> None:
    eager = Eager(tokens=1200, hit_tokens=900, dropped=3, waiting=2)
    for worker, is_said in ((Worker(id="w", eager=eager), True), (Worker(id="w"), False)):
        view = view_of([Snapshot(time=NOW, workers=(worker,))])
        (row,) = WORKERS.rows(view)
        said = [as_text(text) for text in WORKERS.detail(row, view)]
        ahead = "computed ahead of calls: 1,200 tokens, 900 of them hit since; 2 answers wait, 3 were given up"
        assert (ahead in said) == is_said


def test_a_worker_says_who_waits_for_memory_where_anybody_may() -> None:
    admission = Admission(waiting=3, held_back=1200, overdue=1, sessions=14, held_tokens=15_900)
    for worker, is_said in ((Worker(id="w", admission=admission), True), (Worker(id="w"), False)):
        view = view_of([Snapshot(time=NOW, workers=(worker,))])
        (row,) = WORKERS.rows(view)
        said = "\n".join(as_text(text) for text in WORKERS.detail(row, view))
        assert ("waiting for memory: 3 calls of new sessions, beside 14 sessions under way" in said) == is_said


def test_the_store_of_a_worker_is_told_with_its_damage_or_why_it_is_off() -> None:
    stores = (
        Store(
            store_hit_tokens=12_345, host_hit_tokens=67, used_bytes=3 << 20, used_disk_bytes=1 << 20, damaged_pages=0
        ),
        Store(store_hit_tokens=12_345, damaged_pages=2, refused_pages=1),
        Store(why_off="/dev/shm is full: make room", store_hit_tokens=12_345),
        None,
    )
    workers = tuple(Worker(id=str(number), store=store) for number, store in enumerate(stores))
    view = view_of([Snapshot(time=NOW, workers=workers)])
    rows, (column,) = WORKERS.rows(view), [column for column in WORKERS.columns if column.title == "Store"]
    assert [as_text(column.cell(row)) for row in rows] == ["12.3k", "!12.3k", "OFF", words.UNKNOWN]
    said = ["; ".join(as_text(text) for text in WORKERS.detail(row, view)) for row in rows]
    assert (
        "store: 12,345 tokens found, 67 in the host; holds 2 MiB in memory, 1 MiB on disk; 0 pages damaged" in said[0]
    )
    assert "2 pages damaged, 1 refused" in said[1]
    assert "store OFF: /dev/shm is full: make room" in said[2]
    assert "store" not in said[3]


def test_pushes_are_told_of_a_decode_worker_and_jobs_of_the_router() -> None:
    push, jobs = (
        Push(pushed_tokens=5000, push_hit_tokens=4000, push_wasted_tokens=600, dropped_pushes=2),
        EagerJobs(done=9, dropped=1, cancelled=2, failed=0),
    )
    workers = (Worker(id="d", role="decode", push=push), Worker(id="r", role="router"), Worker(id="p", role="prefill"))
    view = view_of([Snapshot(time=NOW, workers=workers, eager_jobs=jobs)])
    said = {row.worker.id: [as_text(text) for text in WORKERS.detail(row, view)] for row in WORKERS.rows(view)}
    pushed = "handed over ahead of calls: 5,000 tokens, 4,000 of them hit since, 600 in vain; 2 times calls came first"
    outcomes = (
        "answers to compute ahead: 9 done, - of them pushed to the module expected next; 1 gave way, 2 came too late, "
        "0 failed"
    )
    assert [name for name, texts in said.items() if pushed in texts] == ["d"]
    assert [name for name, texts in said.items() if outcomes in texts] == ["r"]


def test_of_several_routers_the_one_that_was_asked_tells_of_itself() -> None:
    jobs = EagerJobs(done=9, dropped=1, cancelled=2, failed=0)
    workers = (Worker(id="router", role="router"), Worker(id="router 10.0.0.2:30000", role="router", state="down"))
    view = view_of([Snapshot(time=NOW, workers=workers, eager_jobs=jobs, forwarded=1234)])
    said = {row.worker.id: [as_text(text) for text in WORKERS.detail(row, view)] for row in WORKERS.rows(view)}
    passed_on = "calls passed on to the router of their session: 1,234; sessions and calls here are this router's alone"
    assert passed_on in said["router"]
    assert not any("passed on" in text or "compute ahead" in text for text in said["router 10.0.0.2:30000"])


def test_columns_that_matter_less_go_first() -> None:
    titles = {width: {column.title for column, _ in fit(MODULES.columns, width)} for width in (76, 196)}
    assert {"Module", "Saved", "Cross", "TTFT p95", "Fail"} <= titles[76]
    assert titles[196] == {column.title for column in MODULES.columns}


def test_rows_sort_by_value_in_both_directions_and_unknown_ones_come_last() -> None:
    rows = [row(id="a", num_calls=2), row(id="b"), row(id="c", num_calls=10)]
    ids = [
        [row.session.id for row in arrange(SESSIONS, rows, "", "Calls", is_descending)]
        for is_descending in (True, False)
    ]
    assert ids == [["c", "a", "b"], ["a", "c", "b"]]


def test_without_a_column_the_servers_order_stays() -> None:
    rows = [row(id="z"), row(id="a")]
    assert arrange(SESSIONS, rows, "", None, True) == rows


def test_the_filter_wants_every_word_somewhere_in_the_row() -> None:
    rows = [row(id="alpha", modules=("math", "tool")), row(id="beta", modules=("math",))]
    assert [row.session.id for row in arrange(SESSIONS, rows, "MATH alp", None, False)] == ["alpha"]
    assert arrange(SESSIONS, rows, "nothing", None, False) == []


@pytest.mark.parametrize(
    ("divergence", "modules", "expected"),
    [
        (
            Divergence(token=34, fraction=0.04, modules=("math", "tool")),
            ("math", "tool"),
            "math and tool part after token 34",
        ),
        (None, ("math", "tool"), "prefixes of one another"),
        (None, ("math",), "only one module"),
    ],
)
def test_a_session_says_where_its_prompts_part(
    divergence: Divergence | None, modules: tuple[str, ...], expected: str, view: View
) -> None:
    advice = as_text(SESSIONS.detail(row(divergence=divergence, modules=modules), view)[-1])
    assert expected in advice
    assert ("at the end" in advice) == (divergence is not None)


def test_prompts_that_part_late_get_no_advice(view: View) -> None:
    divergence = Divergence(token=900, fraction=0.9, modules=("math", "tool"))
    assert "at the end" not in as_text(SESSIONS.detail(row(divergence=divergence), view)[-1])


def test_bars_fill_their_width_and_show_even_the_smallest_part() -> None:
    for width in (8, 12, 50):
        assert len(as_text(split_bar(HitSplit(1, 1, 100000), width))) == width
        assert as_text(split_bar(HitSplit(1, 1, 100000), width)).startswith("█⣿░")
        assert as_text(split_bar(HitSplit(0, 5, 5), width)).count("⣿") == width // 2
        assert as_text(split_bar(None, width)) == "·" * width
    kv = Kv(capacity_tokens=100, shared_tokens=50, private_tokens=25, free_tokens=25)
    assert as_text(memory_bar(kv, 8)) == "████▓▓░░"
    assert as_text(memory_bar(None, 4)) == "····"


@pytest.mark.parametrize("width", [36, 56, 96])
def test_the_overviews_lines_fit(width: int, view: View) -> None:
    for text in (*hits_lines(view, width), *latency_lines(view, width)):
        assert len(as_text(text)) <= width
    for text in load_lines(view):
        assert len(as_text(text)) <= 24


def test_the_overview_says_what_prefilled_tokens_are_compared_with(view: View) -> None:
    split = view.total.hits
    text = as_text(hits_lines(view, 56)[3])
    assert text == f"prefilled {words.short(split.missed)}, without cache {words.short(split.prompt)}"


@pytest.mark.parametrize(("width", "rows"), [(48, 4), (86, 6), (166, 12)])
def test_memory_of_many_workers_fits_and_says_how_many_are_missing(width: int, rows: int) -> None:
    many = view_of(snapshots(40, num_workers=32))
    shown = memory_lines(many, width, rows)
    assert len(shown) <= rows
    assert all(len(as_text(text)) <= width for text in shown)
    assert "more, see 3 Workers" in as_text(shown[-1])


def test_a_worker_in_trouble_is_shown_before_full_ones() -> None:
    states = snapshots(3, num_workers=32)
    workers = [
        dataclasses.replace(worker, state="down", kv=None) if worker.id == "prefill-3" else worker
        for worker in states[-1].workers
    ]
    down = view_of([*states[:-1], dataclasses.replace(states[-1], workers=tuple(workers))])
    assert as_text(memory_lines(down, 48, 4)[0]).split() == ["prefill-3", "DOWN"]


def test_a_tenant_is_told_with_what_it_was_refused(view: View) -> None:
    rows = {row.tenant.name: row for row in TENANTS.rows(view)}
    assert list(rows) == ["acme", "northwind", "globex", "a-tenant-with-a-rather-long-name", "acme-1"]
    acme = rows["acme"]
    text = "\n".join(as_text(part) for part in TENANTS.detail(acme, view))
    assert f"{words.exact(acme.tenant.refused.rate)} for calls/s" in text
    assert "a door" not in text
    cells = {column.title: as_text(column.cell(acme)) for column in TENANTS.columns}
    assert cells["Refused"] == f"!{words.short(acme.tenant.refused.total)}"
    assert cells["Saved"].endswith("%")
    assert as_text(next(column for column in TENANTS.columns if column.title == "KV").cell(rows["globex"])) == "common"
    assert "in the common cache" in as_text(TENANTS.detail(rows["globex"], view)[2])
