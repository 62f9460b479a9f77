"""Sessions: conversations that modules take turns in, and where their prompts part."""

from dataclasses import asdict, dataclass

from prefillshare_tui import words
from prefillshare_tui.parts import Line, line, split_bar
from prefillshare_tui.snapshot import Session
from prefillshare_tui.tables.base import Column, Table
from prefillshare_tui.totals import HitSplit
from prefillshare_tui.view import View

_BAR_CELLS = 10
EARLY = 0.5
"""Prompts that part before this part of their length lose most of what could be shared."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session, beside the server's clock."""

    session: Session
    """As the server describes it."""
    now: float
    """Unix seconds."""

    @property
    def hits(self) -> HitSplit | None:
        """All its prompt tokens."""
        session = self.session
        if not session.prompt_tokens or session.own_hit_tokens is None:
            return None
        own, cross = session.own_hit_tokens, session.cross_hit_tokens or 0.0
        return HitSplit(own, cross, max(0.0, session.prompt_tokens - own - cross))

    @property
    def idle_s(self) -> float | None:
        """Seconds since its latest call."""
        return self.now - self.session.last_seen if self.session.last_seen is not None else None


def _rows(view: View) -> list[SessionRow]:
    return [SessionRow(session, view.snapshot.time) for session in view.snapshot.sessions]


def _ratio(row: SessionRow) -> float | None:
    return row.hits.ratio if row.hits else None


def _parting(row: SessionRow) -> float | None:
    return row.session.divergence.token if row.session.divergence else None


def _parts_at(row: SessionRow) -> Line:
    parted = row.session.divergence
    if parted is None:
        return line((words.UNKNOWN, "dim"))
    is_early = parted.fraction is not None and parted.fraction < EARLY
    return line((f"{'!' if is_early else ''}{words.short(parted.token)}", "bad" if is_early else "plain"))


def _running(row: SessionRow) -> Line:
    running = row.session.running
    return line((words.short(running), "good" if running else "dim"))


def _detail(row: SessionRow, view: View) -> tuple[Line, ...]:
    session, split = row.session, row.hits
    head = line(
        ("session ", "dim"),
        (session.id, "strong"),
        f" ({'named by the client' if session.is_explicit else 'found by its prompts'}): "
        f"{words.exact(session.num_calls)} calls in {words.span(_age(session))}, "
        f"{words.exact(session.repins)} re-pins; "
        f"modules {' → '.join(session.modules) or words.UNKNOWN}",
    )
    tokens = line(
        f"context {words.exact(session.context_tokens)} tokens; prompts {words.exact(session.prompt_tokens)}: own ",
        (words.exact(session.own_hit_tokens), "own"),
        ", cross-module ",
        (words.exact(session.cross_hit_tokens), "cross"),
        f", missed {words.exact(split.missed if split else None)}",
    )
    return head, tokens, _advice(session)


def _advice(session: Session) -> Line:
    parted = session.divergence
    if parted is None:
        text = "its prompts are prefixes of one another: nothing is lost"
        return line(("only one module so far" if len(session.modules) < 2 else text, "dim"))
    names = " and ".join(parted.modules) or "its modules"
    where = f"prompts of {names} part after token {words.exact(parted.token)} ({words.percent(parted.fraction)})"
    if parted.fraction is not None and parted.fraction < EARLY:
        return line((f"! {where}", "bad"), ": put what differs, such as the role, at the end")
    return line(where)


def _age(session: Session) -> float | None:
    known = session.first_seen is not None and session.last_seen is not None
    return session.last_seen - session.first_seen if known else None  # type: ignore[operator]


SESSIONS: Table[SessionRow] = Table(
    name="sessions",
    columns=(
        Column(
            title="Session",
            width=14,
            cell=lambda row: line((row.session.id, "strong")),
            sort_key=lambda row: row.session.id,
            align="left",
            is_flexible=True,
            is_name=True,
        ),
        Column(
            title="Modules",
            width=15,
            cell=lambda row: line(" ".join(row.session.modules)),
            sort_key=lambda row: len(row.session.modules),
            align="left",
            is_flexible=True,
        ),
        Column(
            title="Calls",
            width=5,
            cell=lambda row: line(words.short(row.session.num_calls)),
            sort_key=lambda row: row.session.num_calls,
        ),
        Column(
            title="Context",
            width=7,
            cell=lambda row: line(words.short(row.session.context_tokens)),
            sort_key=lambda row: row.session.context_tokens,
        ),
        Column(
            title="Prompts",
            width=_BAR_CELLS,
            cell=lambda row: split_bar(row.hits, _BAR_CELLS),
            sort_key=lambda row: row.session.prompt_tokens,
            align="left",
        ),
        Column(title="Saved", width=5, cell=lambda row: line((words.percent(_ratio(row)), "strong")), sort_key=_ratio),
        Column(
            title="Cross",
            width=6,
            cell=lambda row: line((words.short(row.session.cross_hit_tokens), "cross")),
            sort_key=lambda row: row.session.cross_hit_tokens,
            priority=3,
        ),
        Column(
            title="Own",
            width=6,
            cell=lambda row: line((words.short(row.session.own_hit_tokens), "own")),
            sort_key=lambda row: row.session.own_hit_tokens,
            priority=4,
        ),
        Column(title="Parts at", width=8, cell=_parts_at, sort_key=_parting),
        Column(title="Run", width=3, cell=_running, sort_key=lambda row: row.session.running, priority=1),
        Column(
            title="Re-pins",
            width=7,
            cell=lambda row: line(words.short(row.session.repins)),
            sort_key=lambda row: row.session.repins,
            priority=5,
        ),
        Column(
            title="Idle",
            width=9,
            cell=lambda row: line(words.span(row.idle_s)),
            sort_key=lambda row: row.idle_s,
            priority=2,
        ),
    ),
    rows=_rows,
    key=lambda row: row.session.id,
    detail=_detail,
    record=lambda row: asdict(row.session),
    empty="No session yet: the first call makes one.",
)
