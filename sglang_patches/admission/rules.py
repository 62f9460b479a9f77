"""Which calls are taken, and which wait for memory.

What is held is what the calls that run and the sessions under way take together, what they share counted once:

    KV cache   |==== running calls ====|== contexts kept between two calls ==|   free   |
                                                    new sessions are taken up to here ^ |
                                          sessions under way may grow up to the end     ^

A call of a session under way is taken as it comes. A new session is taken when its first call fits; until then its
calls wait, in the order in which sessions came. Contexts grow: where those of the sessions under way no longer fit,
the youngest of them gives way when its next call comes, and waits as a new one does. So the older sessions keep what
was computed for them and end, and nobody evicts the context that is needed next. Between two calls a context is kept
for some seconds at most (:mod:`sglang_patches.admission.sessions`).

What new sessions bring is computed beside the running calls, which then take several times as long for each token. So
sessions start one after the other, or as many together as bring no more than one chunk: the next ones when the first
have some tokens of their answers, and the running calls have gone on meanwhile.

Nobody waits for nothing, nor for ever: what needs next to no memory is taken where it fits, the first in the queue is
taken when nothing has run for a moment, and any call once it has waited long enough; its session then does not give
way for as long. Nothing here bounds memory: the scheduler does, whatever is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sglang_patches.admission.held import Context, HeldTokens
from sglang_patches.admission.sessions import Session, Sessions

FILL_SHARE = 0.7
"""Of the KV cache, what new sessions may fill: contexts grow with each call."""
SETTLED_TOKENS = 8
"""Tokens of its first answer after which the next session may start."""
SMALL_SHARE = 1 / 64
"""Of the KV cache, what a call may add that does not wait behind larger ones."""
IDLE_S = 1.0
"""After that long without a call in work, contexts that are kept are not worth an engine that waits for them."""
_OUTPUT_MEMORY = 0.95
_MOST_LOOKED_AT = 64
_SESSIONS_BETWEEN_SWEEPS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What is known of a call before it is taken."""

    rid: str
    context: Context
    namespace: str
    session: str | None
    """The client's name for its session."""
    max_new_tokens: int
    priority: int = 0
    """Those with less are taken first."""


@dataclass(eq=False, kw_only=True, slots=True)
class _Entry:
    call: Call
    session: Session
    since: float
    num_expected: int
    """Tokens that its answer is expected to have; 0 while it waits."""


@dataclass(kw_only=True)
class Admission:
    """The calls of one engine; every method is told the time."""

    num_capacity: int
    """Tokens of the KV cache."""
    num_start_tokens: int
    """What sessions that start together may bring: a chunk of prefill."""
    longest_wait_s: float
    _known: Sessions = field(default_factory=Sessions)
    _held: HeldTokens = field(default_factory=HeldTokens)
    _running: dict[str, _Entry] = field(default_factory=dict)
    _waiting: dict[str, _Entry] = field(default_factory=dict)
    _kept: dict[Session, None] = field(default_factory=dict)
    """Sessions whose context is kept between two calls."""
    _starting: dict[str, int] = field(default_factory=dict)
    """Calls of sessions that start, and what each brings."""
    _num_expected: int = 0
    _output_tokens: float = 0.0
    _idle_since: float = 0.0
    held_back: int = 0
    """Calls that had to wait, so far."""
    overdue: int = 0
    """Of these, calls that were taken because they had waited for the longest time."""

    @property
    def waiting(self) -> int:
        """Calls that wait for memory."""
        return len(self._waiting)

    @property
    def sessions(self) -> int:
        """Sessions with a call in work, or whose context is kept."""
        return len({known.session for known in self._running.values()} | self._kept.keys())

    @property
    def held_tokens(self) -> int:
        """Tokens that running calls and sessions under way take together."""
        return self._held.num_tokens + self._num_expected

    def arrive(self, call: Call, now: float) -> bool:
        """A call comes; whether it is taken at once."""
        session = self._known.find(call.namespace, call.session, call.context, now)
        known = _Entry(call=call, session=session, since=now, num_expected=0)
        if session.ticket % _SESSIONS_BETWEEN_SWEEPS == 0:
            self.forget_quiet(now)  # elsewhere only where there is no room
        if session.is_admitted and self._must_give_way(known, now):
            self._suspend(session)
        if session.is_admitted or (not self._waiting and self._has_room(known, now)):
            self._take(known)
            return True
        self._waiting[call.rid] = known
        session.num_waiting += 1
        self.held_back += 1
        return False

    def note_output(self, rid: str, num_tokens: int) -> bool:
        """A call's answer has so many tokens; whether its session has started by that, so that others may."""
        return num_tokens >= SETTLED_TOKENS and self._starting.pop(rid, None) is not None

    def end(self, rid: str, num_output: int, now: float) -> None:
        """A call is over, in whatever way, whether it was taken or not; others are none of this room's."""
        if (known := self._waiting.get(rid)) is not None:
            self._leave_queue(known)
            known.session.num_calls -= 1
            return
        if (known := self._running.pop(rid, None)) is None:
            return
        self._starting.pop(rid, None)
        self._output_tokens = _OUTPUT_MEMORY * self._output_tokens + (1 - _OUTPUT_MEMORY) * num_output
        self._num_expected -= known.num_expected
        self._held.remove(known.call.context)
        session = known.session
        session.num_running -= 1
        session.quiet_since = now
        self._keep(session, known.call.context)
        if not self._running:
            self._idle_since = now

    def take_waiting(self, now: float) -> Iterator[str]:
        """The calls that need wait no longer, first those that come first; each is taken as it is told."""
        for overdue in [known for known in self._waiting.values() if now - known.since >= self.longest_wait_s]:
            # One after the other, too: together they would hold up everybody, themselves included.
            if self._may_start(overdue):
                self._leave_queue(overdue)
                overdue.session.protected_until = now + self.longest_wait_s
                self.overdue += 1
                yield self._take(overdue)
        while self._waiting and (entry := self._next(now)) is not None:
            self._leave_queue(entry)
            yield self._take(entry)

    def forget_kept(self) -> None:
        """Contexts that were kept between two calls are gone."""
        for session in list(self._kept):
            self._suspend(session)

    def forget_quiet(self, now: float) -> None:
        """Keep no contexts any longer than their time."""
        for session in [session for session in self._kept if self._is_over(session, now)]:
            self._suspend(session)
        for session in self._known.list_to_forget():
            self._known.forget(session)

    def _next(self, now: float) -> _Entry | None:
        queue = sorted(self._waiting.values(), key=lambda known: (known.call.priority, known.session.ticket))
        first = queue[0]
        if first.session.is_admitted or self._has_room(first, now):
            return first
        if not self._running and now - self._idle_since >= IDLE_S:
            return first
        return next((known for known in queue[1:_MOST_LOOKED_AT] if self._is_small(known)), None)

    def _has_room(self, known: _Entry, now: float) -> bool:
        return self._may_start(known) and self._fits(known, now)

    def _may_start(self, known: _Entry) -> bool:
        """Whether others whose sessions start just now leave it a part of the chunk, where that matters to anybody."""
        num_starting = sum(self._starting.values())
        if not num_starting or not self._are_others_at_work():
            return True
        return num_starting + self._count_added(known) <= self.num_start_tokens

    def _are_others_at_work(self) -> bool:
        """Whether anybody is under way whom a start would slow down."""
        return any(known.session.num_calls > 1 for known in self._running.values())

    def _fits(self, known: _Entry, now: float) -> bool:
        most = FILL_SHARE * self.num_capacity
        if self.held_tokens + self._count_added(known) <= most:
            return True
        self.forget_quiet(now)
        # A call that would not fit even alone has no reason to wait once it is.
        return self.held_tokens + self._count_added(known) <= most or not (self._running or self._kept)

    def _is_small(self, known: _Entry) -> bool:
        if known.session.is_admitted:
            return True
        num_added = self._count_added(known)
        return num_added <= SMALL_SHARE * self.num_capacity and self.held_tokens + num_added <= self.num_capacity

    def _must_give_way(self, known: _Entry, now: float) -> bool:
        """Whether a session under way is the one for whose growth there is no room."""
        if self.held_tokens + self._count_added(known) <= self.num_capacity:
            return False
        self.forget_quiet(now)
        session = known.session
        if session.num_running or now < session.protected_until or not session.is_admitted:
            return False
        if self.held_tokens + self._count_added(known) <= self.num_capacity:
            return False
        others = {other.session.ticket for other in self._running.values()} | {other.ticket for other in self._kept}
        return len(others - {session.ticket}) > 0 and session.ticket >= max(others)

    def _count_added(self, known: _Entry) -> int:
        return self._held.count_missing(known.call.context) + self._expect(known.call)

    def _expect(self, call: Call) -> int:
        return min(call.max_new_tokens, int(self._output_tokens) + 1)

    def _take(self, known: _Entry) -> str:
        session = known.session
        if not session.is_admitted:
            self._starting[known.call.rid] = self._count_added(known)
        self._drop_kept(session)
        session.is_admitted = True
        session.num_running += 1
        known.num_expected = self._expect(known.call)
        self._num_expected += known.num_expected
        self._held.add(known.call.context)
        self._running[known.call.rid] = known
        return known.call.rid

    def _keep(self, session: Session, context: Context) -> None:
        self._drop_kept(session)
        session.context = context
        self._held.add(context)
        self._kept[session] = None

    def _drop_kept(self, session: Session) -> None:
        if session.context is not None:
            self._held.remove(session.context)
            session.context = None
            del self._kept[session]

    def _is_over(self, session: Session, now: float) -> bool:
        return not session.num_running and now - session.quiet_since >= self._known.keep_s(session)

    def _suspend(self, session: Session) -> None:
        """A session is under way no longer: its next call is a new one's, but for its place in the queue."""
        self._drop_kept(session)
        session.is_admitted = session.num_running > 0

    def _leave_queue(self, known: _Entry) -> None:
        del self._waiting[known.call.rid]
        known.session.num_waiting -= 1
