"""Workers: state, load, memory, and how fast KV is handed off."""

from dataclasses import asdict, dataclass

from prefillshare_tui import words
from prefillshare_tui.parts import Line, Tone, line, memory_bar
from prefillshare_tui.snapshot import Kv, Snapshot, Store, Worker
from prefillshare_tui.tables.base import Column, Table
from prefillshare_tui.view import NOTHING, Activity, View

_BAR_CELLS = 12
_OTHER_ROUTER = "router "
"""Begin of the id of a router that another one tells of; what it has counted it tells itself."""
STATE_TONES: dict[str, Tone] = {"up": "good", "starting": "warn", "draining": "warn", "down": "bad", "failed": "bad"}


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker and what it did within the window."""

    worker: Worker
    """As the server describes it."""
    activity: Activity
    """Within the window."""

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens that it computed per second; what a decode worker lacks is handed to it instead."""
        return None if self.worker.role == "decode" else self.activity.prefill_rate


def used_ratio(kv: Kv | None) -> float | None:
    """The part of KV memory in use, by the tree or by requests."""
    if kv is None or not kv.capacity_tokens:
        return None
    return ((kv.shared_tokens or 0.0) + (kv.private_tokens or 0.0)) / kv.capacity_tokens


def state_parts(worker: Worker) -> Line:
    """The state: one that needs a look is written in capitals."""
    tone = STATE_TONES.get(worker.state, "warn")
    return line((worker.state.upper() if tone == "bad" else worker.state or words.UNKNOWN, tone))


def _rows(view: View) -> list[WorkerRow]:
    return [WorkerRow(worker, view.workers.get(worker.id, NOTHING)) for worker in view.snapshot.workers]


def _restarts(row: WorkerRow) -> Line:
    return line((words.short(row.worker.restarts), "warn" if row.worker.restarts else "dim"))


def _detail(row: WorkerRow, view: View) -> tuple[Line, ...]:
    worker, kv = row.worker, row.worker.kv
    head = line(
        (worker.id, "strong"),
        f" {worker.role} at {worker.url or words.UNKNOWN}, pid "
        f"{words.UNKNOWN if worker.pid is None else f'{worker.pid:.0f}'}; since its start: prompt "
        f"{words.exact(worker.prompt_tokens)} tokens, cached {words.exact(worker.cached_tokens)}, generated "
        f"{words.exact(worker.generated_tokens)}; {words.exact(worker.retractions)} retractions",
    )
    memory = (
        line("KV memory: nobody knows")
        if kv is None
        else line(
            f"KV memory {words.exact(kv.capacity_tokens)} tokens ({_bytes(kv.capacity_tokens, kv)}): shared ",
            (words.exact(kv.shared_tokens), "own"),
            f" ({words.exact(kv.evictable_tokens)} may go{_pinned(kv)}), private {words.exact(kv.private_tokens)}, "
            f"free {words.exact(kv.free_tokens)}",
        )
    )
    return (
        head,
        *_without_store(worker.store),  # before what may find no room in a small terminal
        memory,
        *_stored(worker.store),
        *_moved(row),
        *_waiting_for_memory(worker),
        *_computed_ahead(worker),
        *_pushed(worker),
        *_of_router(worker, view.snapshot),
    )


def _pinned(kv: Kv) -> str:
    """What callers want to have kept, where they want any."""
    return f", {words.exact(kv.pinned_tokens)} of it last" if kv.pinned_tokens else ""


def _store_cell(row: WorkerRow) -> Line:
    """Prompt tokens that came from the store; capitals where it is off, a mark where pages were damaged."""
    store = row.worker.store
    if store is None:
        return line((words.UNKNOWN, "dim"))
    if store.why_off is not None:
        return line(("OFF", "bad"))
    mark = "!" if store.damaged_pages else ""
    return line((f"{mark}{words.short(store.store_hit_tokens)}", "warn" if mark else "plain"))


def _without_store(store: Store | None) -> tuple[Line, ...]:
    if store is None or store.why_off is None:
        return ()
    return (line(("store OFF: ", "bad"), store.why_off),)


def _stored(store: Store | None) -> tuple[Line, ...]:
    if store is None or store.why_off is not None:
        return ()
    in_memory = (store.used_bytes or 0) - (store.used_disk_bytes or 0)
    return (
        line(
            f"store: {words.exact(store.store_hit_tokens)} tokens found, {words.exact(store.host_hit_tokens)} in the "
            f"host; holds {words.size(in_memory)} in memory, {words.size(store.used_disk_bytes)} on disk; ",
            (f"{words.exact(store.damaged_pages)} pages damaged", "warn" if store.damaged_pages else "plain"),
            f", {words.exact(store.refused_pages)} refused",
        ),
    )


def _moved(row: WorkerRow) -> tuple[Line, ...]:
    handoff = row.worker.handoff
    if handoff is None:
        return ()
    moved = line(
        f"handed off {words.exact(handoff.tokens)} tokens, {words.size(handoff.bytes)} in "
        f"{words.exact(handoff.calls)} calls; while it moves, "
        f"{words.size(row.activity.per_second('handoff_bytes', 'handoff_seconds'))}/s"
    )
    return (moved,)


def _computed_ahead(worker: Worker) -> tuple[Line, ...]:
    eager = worker.eager
    if eager is None:
        return ()
    text = f"computed ahead of calls: {words.exact(eager.tokens)} tokens, {words.exact(eager.hit_tokens)} of them hit "
    ends = f"{words.exact(eager.waiting)} answers wait, {words.exact(eager.dropped)} were given up"
    return (line(f"{text}since; {ends}"),)


def _waiting_for_memory(worker: Worker) -> tuple[Line, ...]:
    admission = worker.admission
    if admission is None:
        return ()
    text = f"waiting for memory: {words.exact(admission.waiting)} calls of new sessions, beside "
    kept = f"{words.exact(admission.sessions)} sessions under way with {words.exact(admission.held_tokens)} tokens; "
    ends = (
        f"{words.exact(admission.held_back)} have waited, {words.exact(admission.overdue)} of them for the longest time"
    )
    return (line(f"{text}{kept}{ends}"),)


def _pushed(worker: Worker) -> tuple[Line, ...]:
    push = worker.push
    if push is None:
        return ()
    text = f"handed over ahead of calls: {words.exact(push.pushed_tokens)} tokens, "
    ends = f"{words.exact(push.push_wasted_tokens)} in vain; {words.exact(push.dropped_pushes)} times calls came first"
    return (line(f"{text}{words.exact(push.push_hit_tokens)} of them hit since, {ends}"),)


def _of_router(worker: Worker, snapshot: Snapshot) -> tuple[Line, ...]:
    """What the router that was asked says of itself; of others beside it only their state is known here."""
    if worker.role != "router" or worker.id.startswith(_OTHER_ROUTER):
        return ()
    return (*_forwarded(snapshot), *_jobs(snapshot))


def _forwarded(snapshot: Snapshot) -> tuple[Line, ...]:
    if snapshot.forwarded is None:
        return ()
    text = (
        f"calls passed on to the router of their session: {words.exact(snapshot.forwarded)}; sessions and calls here "
    )
    return (line(text + "are this router's alone"),)


def _jobs(snapshot: Snapshot) -> tuple[Line, ...]:
    """What the router had computed ahead."""
    jobs = snapshot.eager_jobs
    if jobs is None:
        return ()
    text = (
        f"answers to compute ahead: {words.exact(jobs.done)} done, {words.exact(jobs.pushed)} of them pushed to the "
        f"module expected next; {words.exact(jobs.dropped)} gave way, {words.exact(jobs.cancelled)} came too late, "
        f"{words.exact(jobs.failed)} failed"
    )
    if jobs.waiting:
        text += f"; {words.exact(jobs.waiting)} still to come"
    return (line(text),)


def _bytes(tokens: float | None, kv: Kv) -> str:
    return words.size(tokens * kv.token_bytes if tokens is not None and kv.token_bytes is not None else None)


WORKERS: Table[WorkerRow] = Table(
    name="workers",
    columns=(
        Column(
            title="Worker",
            width=13,
            cell=lambda row: line((row.worker.id, "strong")),
            sort_key=lambda row: row.worker.id,
            align="left",
            is_flexible=True,
            is_name=True,
        ),
        Column(
            title="Role",
            width=7,
            cell=lambda row: line(row.worker.role),
            sort_key=lambda row: row.worker.role,
            align="left",
            priority=5,
        ),
        Column(
            title="Module",
            width=10,
            cell=lambda row: line(row.worker.module or words.UNKNOWN),
            sort_key=lambda row: row.worker.module,
            align="left",
            priority=6,
        ),
        Column(
            title="State",
            width=8,
            cell=lambda row: state_parts(row.worker),
            sort_key=lambda row: row.worker.state,
            align="left",
        ),
        Column(
            title="Run",
            width=4,
            cell=lambda row: line(words.short(row.worker.running)),
            sort_key=lambda row: row.worker.running,
        ),
        Column(
            title="Queue",
            width=5,
            cell=lambda row: line(words.short(row.worker.queued)),
            sort_key=lambda row: row.worker.queued,
        ),
        Column(
            title="Prefill/s",
            width=9,
            cell=lambda row: line(words.short(row.prefill_rate)),
            sort_key=lambda row: row.prefill_rate,
            priority=2,
        ),
        Column(
            title="Tok/s",
            width=6,
            cell=lambda row: line(words.short(row.activity.rate("generated_tokens"))),
            sort_key=lambda row: row.activity.rate("generated_tokens"),
        ),
        Column(
            title="Cached",
            width=6,
            cell=lambda row: line(words.percent(row.activity.cached_ratio)),
            sort_key=lambda row: row.activity.cached_ratio,
            priority=3,
        ),
        Column(
            title="Store",
            width=6,
            cell=_store_cell,
            sort_key=lambda row: row.worker.store and row.worker.store.store_hit_tokens,
            priority=1,
        ),
        Column(
            title="KV memory",
            width=_BAR_CELLS,
            cell=lambda row: memory_bar(row.worker.kv, _BAR_CELLS),
            sort_key=lambda row: used_ratio(row.worker.kv),
            align="left",
        ),
        Column(
            title="Used",
            width=5,
            cell=lambda row: line(words.percent(used_ratio(row.worker.kv))),
            sort_key=lambda row: used_ratio(row.worker.kv),
        ),
        Column(
            title="Hand-off/s",
            width=10,
            cell=lambda row: line(words.size(row.activity.rate("handoff_bytes"))),
            sort_key=lambda row: row.activity.rate("handoff_bytes"),
            priority=4,
        ),
        Column(
            title="Retract",
            width=7,
            cell=lambda row: line(words.short(row.worker.retractions)),
            sort_key=lambda row: row.worker.retractions,
            priority=7,
        ),
        Column(title="Restarts", width=8, cell=_restarts, sort_key=lambda row: row.worker.restarts, priority=1),
    ),
    rows=_rows,
    key=lambda row: row.worker.id,
    detail=_detail,
    record=lambda row: asdict(row.worker),
    empty="The deployment names no workers.",
)
