"""Sessions: whose call it is, who is under way, and who has gone quiet.

A session is what the client names as one. A call without a name belongs to the session whose latest prompt it goes on
from: that prompt, but for its last eighth, is the call's beginning, and at least half of it. Where this is wrong,
because two users begin alike, little lies beyond what they have in common, so little is at stake.

A name may be everybody's (one `user` for a whole application). So it stands for as many sessions as have calls at the
same time that do not go on from one another: a call with a name belongs to the session of that name which it goes on
from, else to one that is over, else to a new one. Whoever calls one by one has one session, whatever the prompts are;
all that come together under one name have no more right to memory than as many names.

Between two calls a session's context is kept for it, for some time: three times its longest pause so far, and never
longer than computing a context anew takes where memory is scarce (seconds). A session that thinks for longer has no
more right to it than others who wait, and one whose first call was its only one so far is guessed by the others.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from sglang_patches.admission.held import Context

SHORTEST_KEEP_S = 0.5
"""A caller who goes on at once needs that long on a busy machine."""
LONGEST_KEEP_S = 5.0
PAUSES = 3.0
MAX_SESSIONS = 10_000
_MEMORY = 0.9
"""Weight of what was known before, of means that follow the load."""
_TAIL_SHARE = 8


@dataclass(eq=False, kw_only=True, slots=True)
class Session:
    """One session."""

    key: tuple[str, str] | None
    """Its namespace and name; None where the client gave it none."""
    ticket: int
    """Its place among all sessions, by the arrival of its first call."""
    is_admitted: bool = False
    """Whether it is under way: its calls are taken as they come."""
    context: Context | None = None
    """What is kept for it between two calls."""
    num_calls: int = 0
    num_running: int = 0
    num_waiting: int = 0
    quiet_since: float = 0.0
    """When its latest call ended."""
    pause_s: float = 0.0
    """Its longest pause lately."""
    protected_until: float = 0.0
    """Until then it does not give way to older ones: it has waited long enough."""
    tail: tuple[int, ...] = ()
    """Blocks by which a call is known as its next one."""

    @property
    def has_calls(self) -> bool:
        """Whether a call of it runs or waits."""
        return self.num_running > 0 or self.num_waiting > 0


@dataclass(kw_only=True)
class Sessions:
    """All sessions that are known, and what they have in common."""

    max_sessions: int = MAX_SESSIONS
    pause_s: float = 0.0
    """Mean pause between two calls of a session."""
    share_of_first: float = 0.5
    """Share of calls without a name that are the first of their session, lately."""
    _all: OrderedDict[Session, None] = field(default_factory=OrderedDict)
    _by_key: dict[tuple[str, str], list[Session]] = field(default_factory=dict)
    _by_tail: dict[tuple[tuple[str, str] | None, int], Session] = field(default_factory=dict)
    """By key and block: nobody goes on from a session of another name."""
    _num_made: int = 0

    def __len__(self) -> int:
        return len(self._all)

    def find(self, namespace: str, name: str | None, context: Context, now: float) -> Session:
        """The session of a call that comes, a new one where it has none yet.

        Effects: counts the call, and the pause before it.
        """
        key = (namespace, name) if name else None
        session = self._find_continued(key, context) or self._find_free(key)
        if key is None:
            is_first = session is None or session.num_calls == 0
            self.share_of_first = _MEMORY * self.share_of_first + (1 - _MEMORY) * is_first
        if session is None:
            session = self._make(key)
        elif session.num_calls and not session.num_running:
            self._note_pause(session, now - session.quiet_since)
        session.num_calls += 1
        self._all.move_to_end(session)
        self._find_by(session, context)
        return session

    def keep_s(self, session: Session) -> float:
        """How long its context is kept for it after its latest call."""
        if session.num_calls > 1:
            pause_s = session.pause_s
        elif session.key is None and self.share_of_first > 0.5:
            return 0.0  # most calls are their session's only one
        else:
            pause_s = self.pause_s
        return 0.0 if pause_s > LONGEST_KEEP_S else min(max(PAUSES * pause_s, SHORTEST_KEEP_S), LONGEST_KEEP_S)

    def _note_pause(self, session: Session, seconds: float) -> None:
        session.pause_s = max(seconds, _MEMORY * session.pause_s)
        self.pause_s = _MEMORY * self.pause_s + (1 - _MEMORY) * seconds

    def _make(self, key: tuple[str, str] | None) -> Session:
        self._num_made += 1
        session = Session(key=key, ticket=self._num_made)
        self._all[session] = None
        if key is not None:
            self._by_key.setdefault(key, []).append(session)
        return session

    def list_to_forget(self) -> list[Session]:
        """The longest unused of more sessions than are remembered; those at work and those that are kept stay."""
        num_left = len(self._all) - self.max_sessions
        found: list[Session] = []
        for session in self._all:
            if len(found) >= num_left:
                break
            if not session.has_calls and session.context is None and not session.is_admitted:
                found.append(session)
        return found

    def forget(self, session: Session) -> None:
        """A session will not be known again."""
        del self._all[session]
        if session.key is not None:
            self._by_key[session.key].remove(session)
            if not self._by_key[session.key]:
                del self._by_key[session.key]
        self._drop_tail(session)

    def _find_continued(self, key: tuple[str, str] | None, context: Context) -> Session | None:
        # Not from its first half: a beginning in common need not be a conversation in common.
        for block in reversed(context.blocks[len(context.blocks) // 2 :]):
            if (session := self._by_tail.get((key, block))) is not None:
                return session
        return None

    def _find_free(self, key: tuple[str, str] | None) -> Session | None:
        """A session of a name that a call which goes on from none of them belongs to, if there is one."""
        known = self._by_key.get(key, []) if key else []
        if len(known) == 1 and not known[0].has_calls:
            return known[0]
        return next((session for session in known if not session.has_calls and not session.is_admitted), None)

    def _find_by(self, session: Session, context: Context) -> None:
        self._drop_tail(session)
        session.tail = context.blocks[-(1 + len(context.blocks) // _TAIL_SHARE) :]
        self._by_tail.update(dict.fromkeys(((session.key, block) for block in session.tail), session))

    def _drop_tail(self, session: Session) -> None:
        for block in session.tail:
            # Another session may have taken this place over since.
            if self._by_tail.get((session.key, block)) is session:
                del self._by_tail[session.key, block]
