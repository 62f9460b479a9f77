"""Events: what happened to the deployment, newest first."""

from dataclasses import asdict, dataclass

from prefillshare_tui import words
from prefillshare_tui.parts import Line, Tone, line
from prefillshare_tui.snapshot import Event
from prefillshare_tui.tables.base import Column, Table
from prefillshare_tui.view import View

_TONES: dict[str, Tone] = {
    "error": "bad",
    "worker_down": "bad",
    "move_failed": "warn",
    "restart": "warn",
    "refusal": "warn",
    "worker_up": "good",
    "worker_joined": "good",
    "move": "good",
    "module": "good",
}


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event, beside the server's clock."""

    event: Event
    """As the server tells it."""
    now: float
    """Unix seconds."""

    @property
    def age_s(self) -> float | None:
        """How long ago it was. Seconds."""
        return self.now - self.event.time if self.event.time is not None else None


def _rows(view: View) -> list[EventRow]:
    return [EventRow(event, view.snapshot.time) for event in reversed(view.snapshot.events)]


def _kind(row: EventRow) -> Line:
    kind = row.event.kind
    tone = _TONES.get(kind, "plain")
    return line((f"{'! ' if tone == 'bad' else ''}{kind.replace('_', ' ')}", tone))


def _detail(row: EventRow, view: View) -> tuple[Line, ...]:
    event = row.event
    head = line(
        (f"{words.clock_time(event.time)}  {event.kind.replace('_', ' ')}", "strong"),
        f"  {event.subject}, {words.span(row.age_s)} ago",
    )
    return head, line(event.message)


EVENTS: Table[EventRow] = Table(
    name="events",
    columns=(
        Column(
            title="Ago",
            width=9,
            cell=lambda row: line((words.span(row.age_s), "dim")),
            sort_key=lambda row: row.age_s,
        ),
        Column(title="Kind", width=13, cell=_kind, sort_key=lambda row: row.event.kind, align="left"),
        Column(
            title="Subject",
            width=14,
            cell=lambda row: line((row.event.subject, "strong")),
            sort_key=lambda row: row.event.subject,
            align="left",
        ),
        Column(
            title="Message",
            width=20,
            cell=lambda row: line(row.event.message),
            sort_key=lambda row: row.event.message,
            align="left",
            is_flexible=True,
        ),
    ),
    rows=_rows,
    key=lambda row: str(row.event.id),
    detail=_detail,
    record=lambda row: asdict(row.event),
    empty="Nothing happened yet: restarts, refusals and re-pins will be listed here.",
)
