"""The blocks of text on the Overview, computed without Textual."""

from itertools import zip_longest

from prefillshare_tui import words
from prefillshare_tui.parts import CROSS, MISSED, OWN, Line, as_text, line, memory_bar, split_bar
from prefillshare_tui.snapshot import Snapshot, Worker
from prefillshare_tui.tables.workers import state_parts, used_ratio
from prefillshare_tui.view import View, view_since_start

_QUANTILES = (0.5, 0.95, 0.99)
_LATENCIES = (("ttft", "TTFT"), ("itl", "ITL"), ("e2e", "End to end"), ("queue", "Queue"))
_ID_CELLS, _LONG_TEXT, _TWO_COLUMNS = 14, 80, 130


def hits_lines(view: View, width: int) -> tuple[Line, ...]:
    """What sharing gives: the part of prompt tokens that was not computed again, split by who had them computed."""
    split = view.total.hits
    if split is None:
        what = "no prompt tokens in this window" if view.total.seconds else "waiting for a second look"
        return line((what, "dim")), split_bar(None, width), _legend(None, width), line(), _since_start(view)
    return (
        line((words.percent(split.ratio), "strong"), f" of {words.short(split.prompt)} prompt tokens reused"),
        split_bar(split, width),
        _legend((split.own / split.prompt, split.cross / split.prompt, split.missed / split.prompt), width),
        line(f"prefilled {words.short(split.missed)}, without cache {words.short(split.prompt)}"),
        _since_start(view),
    )


def latency_lines(view: View, width: int) -> tuple[Line, ...]:
    """Latencies of the window at three quantiles."""
    cells = max(8, min(12, (width - 10) // 3))
    head = line((" " * 10 + "".join(f"{f'p{round(100 * q)}':>{cells}}" for q in _QUANTILES), "dim"))
    return head, *(
        line(
            f"{title:<10}",
            ("".join(f"{words.quantile(view.total.quantile(name, q)):>{cells}}" for q in _QUANTILES), "strong"),
        )
        for name, title in _LATENCIES
    )


def load_lines(view: View) -> tuple[Line, ...]:
    """What is going on now."""
    last = view.samples[-1].total if view.samples else None
    running, queued = (last.running, last.queued) if last else (None, None)
    failed = view.total.grown.get("errors")
    return (
        line("running ", (words.short(running), "strong"), "  queued ", (words.short(queued), "strong")),
        line("calls ", (words.short(view.total.rate("requests")), "strong"), "/s  failed ")
        + line((words.short(failed), "bad" if failed else "strong")),
        line("generated ", (words.short(view.total.rate("generated_tokens")), "strong"), " tok/s"),
        line("prefilled ", (words.short(view.total.prefill_rate), "strong"), " tok/s"),
        line("sessions ", (words.short(view.snapshot.num_sessions), "strong"))
        + line("  re-pins ", (words.short(view.snapshot.repins), "strong")),
        line("restarts ", (words.short(_restarts(view)), "strong")),
    )


def memory_lines(view: View, width: int, rows: int) -> tuple[Line, ...]:
    """KV memory of as many workers as fit; if not all do, those in trouble and the fullest ones."""
    workers = [worker for worker in view.snapshot.workers if worker.role != "router"]
    num_columns = 2 if width >= _TWO_COLUMNS and len(workers) > 1 else 1
    cells = (width - (num_columns - 1) * 3) // num_columns
    last = line()
    if len(workers) > rows * num_columns:
        rows = max(1, rows - 1)
        last = line((f"and {len(workers) - rows * num_columns} more, see 3 Workers", "dim"))
        workers = sorted(workers, key=_urgency)[: rows * num_columns]
    num_rows = -(-len(workers) // num_columns)
    lines = [_memory_line(worker, cells) for worker in workers]
    if num_columns == 2:
        lines = [
            left + line(" " * (cells + 3 - len(as_text(left)))) + right
            for left, right in zip_longest(lines[:num_rows], lines[num_rows:], fillvalue=line())
        ]
    return (*lines, last) if last else tuple(lines)


def warning_of(snapshot: Snapshot) -> str:
    """One sentence on the modules whose answers are not to be trusted, else on tenants whose file cannot be used."""
    warned = [module for module in snapshot.modules if module.warning]
    if not warned and snapshot.tenants is not None:
        return snapshot.tenants.problem
    if len(warned) > 1:
        return f"{', '.join(module.name for module in warned)}: answers not to be trusted, see 2 Modules"
    return "".join(f"{module.name}: {module.warning}" for module in warned)


def _memory_line(worker: Worker, width: int) -> Line:
    name = f"{words.cut(worker.id, _ID_CELLS):<{_ID_CELLS}} "
    if worker.state != "up" or worker.kv is None:
        return line(name) + state_parts(worker)
    kv = worker.kv
    text = f" {words.percent(used_ratio(kv)):>4} used, free {words.short(kv.free_tokens)}"
    if width >= _LONG_TEXT:
        text = (
            f" {words.percent(used_ratio(kv)):>4} used: shared {words.short(kv.shared_tokens)}, private "
            f"{words.short(kv.private_tokens)}, free {words.short(kv.free_tokens)}"
        )
    text_cells = 52 if width >= _LONG_TEXT else 22
    return line(name) + memory_bar(kv, max(4, width - len(name) - text_cells)) + line(text)


def _urgency(worker: Worker) -> tuple[bool, float]:
    return worker.state == "up", -(used_ratio(worker.kv) or 0.0)


def _legend(shares: tuple[float, float, float] | None, width: int) -> Line:
    own, cross, missed = map(words.percent, shares or (None, None, None))
    name, gap = ("cross-module", "   ") if width >= 50 else ("cross", " ")
    return line((OWN, "own"), f" own {own}{gap}", (CROSS, "cross"), f" {name} {cross}{gap}") + line(
        (MISSED, "missed"), f" missed {missed}"
    )


def _since_start(view: View) -> Line:
    split = view_since_start(view.snapshot).total.hits
    if split is None:
        return line(("since the start -", "dim"))
    return line(
        (f"since the start {words.percent(split.ratio)}, cross {words.percent(split.cross / split.prompt)}", "dim")
    )


def _restarts(view: View) -> float:
    return sum(worker.restarts or 0 for worker in view.snapshot.workers)
