"""The sessions that are in use: who called, how much was cached, and where the modules' prompts part.

A session is what the client names as one. Calls without a name belong together when one prompt goes on where the other
stopped, or nearly: their common beginning is at least half of the shorter one. That is a guess, and modules whose
prompts have nothing in common at their front are never guessed to be one session.

Bounded in sessions and in bytes of remembered prompts; the longest unused are forgotten first. A call costs as much
as comparing its prompt with one remembered prompt per module of its session.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from prefillshare.observe.document import DivergenceState, SessionState
from prefillshare.observe.prefix import common_prefix
from prefillshare.wire.text import session_name

MAX_SESSIONS = 10_000
MAX_LISTED = 500
MAX_PROMPT_BYTES = 1 << 17
"""Of each prompt; where two prompts part later than that is not told."""
MAX_KEPT_BYTES = 1 << 25
"""Of all remembered prompts together."""
MAX_MODULES = 16
"""Modules of one session that are compared."""
_MIN_HEAD_BYTES = 16
_HEAD_LENGTHS = tuple(1 << bits for bits in range(_MIN_HEAD_BYTES.bit_length() - 1, MAX_PROMPT_BYTES.bit_length()))


@dataclass(slots=True, kw_only=True)
class Prompt:
    """A prompt as bytes that begin alike when two prompts begin alike."""

    data: bytes
    """The bytes."""
    token_bytes: int | None = None
    """Bytes of each token where the bytes are token ids; None where they are text."""
    namespace: str = ""
    """What keeps the caches of tenants apart, where the bytes do not begin with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where the prompts of two modules of a session part."""

    token: int
    """Tokens that they have in common; estimated where the prompts are known as text only."""
    fraction: float
    """Share of the shorter prompt that they have in common."""
    modules: tuple[str, str]
    """The two modules."""

    def as_dict(self) -> DivergenceState:
        """Return what people are told of it."""
        return {"token": self.token, "fraction": self.fraction, "modules": list(self.modules)}


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One session."""

    id: str
    """The client's name for it, or a digest of its first prompt."""
    is_explicit: bool
    """Whether the client named it."""
    first_seen: float
    """Seconds since 1970."""
    last_seen: float
    """Seconds since 1970."""
    modules: list[str] = field(default_factory=list)
    """In the order in which they were first called."""
    num_calls: int = 0
    running: int = 0
    context_tokens: int = 0
    """Length of the longest prompt so far."""
    prompt_tokens: int = 0
    own_hit_tokens: int = 0
    cross_hit_tokens: int = 0
    repins: int = 0
    """How often it moved to another prefill worker."""
    latest: bytes = b""
    """Beginning of its latest prompt."""
    prompts: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """By module the latest prompt's beginning and its bytes per token."""
    parted: dict[frozenset[str], Divergence | None] = field(default_factory=dict)
    """By pair of modules where their latest prompts part; None where one goes on from the other."""
    heads: list[int] = field(default_factory=list)
    """Under which beginnings it is found."""

    @property
    def divergence(self) -> Divergence | None:
        """The pair of modules that parts earliest."""
        found = [parting for parting in self.parted.values() if parting is not None]
        return min(found, key=lambda parting: parting.fraction, default=None)

    def as_dict(self) -> SessionState:
        """Return what people are told of it."""
        parting = self.divergence
        return {
            "id": self.id,
            "is_explicit": self.is_explicit,
            "modules": list(self.modules),
            "num_calls": self.num_calls,
            "first_seen": self.first_seen,
            "last_seen": self.last_seen,
            "running": self.running,
            "context_tokens": self.context_tokens,
            "prompt_tokens": self.prompt_tokens,
            "own_hit_tokens": self.own_hit_tokens,
            "cross_hit_tokens": self.cross_hit_tokens,
            "repins": self.repins,
            "divergence": None if parting is None else parting.as_dict(),
        }


class SessionTable:
    """All sessions in use."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        max_sessions: int = MAX_SESSIONS,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        self._clock = clock
        self._max_sessions = max_sessions
        self._max_kept_bytes = max_kept_bytes
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._heads: dict[int, Session] = {}
        self._num_kept_bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, name: str | None, module: str, prompt: Prompt) -> Session | None:
        """A call begins; return its session, None for a nameless call with too short a prompt to know it again."""
        now, data = self._clock(), prompt.data[:MAX_PROMPT_BYTES]
        if name:
            session = self._find_or_add(session_name(name), now)
        elif len(data) < _MIN_HEAD_BYTES:
            return None
        else:
            session = self._guess_session(data, prompt.namespace, now)
        session.num_calls += 1
        session.running += 1
        session.last_seen = now
        if module not in session.modules:
            session.modules.append(module)
        self._sessions.move_to_end(session.id)
        return session

    def note_prefill(
        self, session: Session, module: str, prompt: Prompt, *, tokens: int, own: int, cross: int
    ) -> float | None:
        """A prompt of `tokens` tokens is prefilled, `own` and `cross` of them from the cache.

        Return the share of it that equals the prompt of another module in the session, None without such a one.
        """
        session.prompt_tokens += tokens
        session.own_hit_tokens += own
        session.cross_hit_tokens += cross
        session.context_tokens = max(session.context_tokens, tokens)
        if not prompt.data or tokens <= 0:
            return None
        data = prompt.data[:MAX_PROMPT_BYTES]
        per_token = prompt.token_bytes or len(prompt.data) / tokens
        shares = [
            self._compare(session, (module, data, per_token), (other, *known))
            for other, known in session.prompts.items()
            if other != module
        ]
        self._keep(session, module, data, per_token)
        return max(shares, default=None)

    def end_call(self, session: Session) -> None:
        """A call has ended."""
        session.running -= 1
        session.last_seen = self._clock()

    def count_move(self, name: str) -> None:
        """The session of that name moved to another prefill worker."""
        if (session := self._sessions.get(session_name(name))) is not None:
            session.repins += 1

    def as_list(self) -> list[SessionState]:
        """Return the sessions, newest activity first, at most `MAX_LISTED`."""
        newest = zip(range(MAX_LISTED), reversed(self._sessions.values()), strict=False)
        return [session.as_dict() for _, session in newest]

    def _find_or_add(self, name: str, now: float) -> Session:
        return self._sessions.get(name) or self._add(name, now, is_explicit=True)

    def _guess_session(self, data: bytes, namespace: str, now: float) -> Session:
        # The longest known beginning finds the likeliest session. It need not be the one: two prompts may begin alike
        # and part soon, so the session's latest prompt is compared, too.
        heads = _list_heads(data, namespace)
        for head in reversed(heads):
            found = self._heads.get(head)
            if found is not None and _continues(found.latest, data):
                break
        else:
            digest = hashlib.blake2s(data, digest_size=6, key=namespace.encode(errors="surrogatepass")[:32]).hexdigest()
            found = self._sessions.get(digest) or self._add(digest, now, is_explicit=False)
        self._num_kept_bytes += len(data) - len(found.latest)
        found.latest = data
        self._find_by(found, heads)
        self._shrink()
        return found

    def _find_by(self, session: Session, heads: list[int]) -> None:
        known = self._heads
        for head in session.heads:
            # Another session may have taken this beginning over since.
            if known.get(head) is session:
                del known[head]
        session.heads = heads
        for head in heads:
            known[head] = session

    def _add(self, name: str, now: float, *, is_explicit: bool) -> Session:
        session = Session(id=name, is_explicit=is_explicit, first_seen=now, last_seen=now)
        self._sessions[name] = session
        if len(self._sessions) > self._max_sessions:
            _, oldest = self._sessions.popitem(last=False)
            self._drop_prompts(oldest)
        return session

    def _compare(self, session: Session, new: tuple[str, bytes, float], old: tuple[str, bytes, float]) -> float:
        """Note where the two modules' prompts part; return the share of the new one that they have in common."""
        (module, data, per_token), (other, known, known_per_token) = new, old
        common = common_prefix(known, data)
        shorter = min(len(data), len(known))
        parting = None
        if common < shorter:
            # Bytes become tokens at the rate of the shorter prompt: more of it is what both have in common.
            token = int(common / (per_token if len(data) <= len(known) else known_per_token))
            parting = Divergence(token=token, fraction=common / shorter, modules=(other, module))
        session.parted[frozenset((module, other))] = parting
        return common / len(data)

    def _keep(self, session: Session, module: str, data: bytes, per_token: float) -> None:
        if module not in session.prompts and len(session.prompts) >= MAX_MODULES:
            return
        # One that was forgotten during its call is not met again, and what it kept would count for ever.
        if self._sessions.get(session.id) is not session:
            return
        self._num_kept_bytes += len(data) - len(session.prompts.get(module, (b"", 0))[0])
        session.prompts[module] = (data, per_token)
        self._shrink()

    def _shrink(self) -> None:
        """Beyond the limit, forget the prompts of the longest unused sessions, down to half of it."""
        if self._num_kept_bytes <= self._max_kept_bytes:
            return
        for session in self._sessions.values():
            self._drop_prompts(session)
            # Down to half, so that the next calls need not walk over all sessions again.
            if self._num_kept_bytes <= self._max_kept_bytes // 2:
                return

    def _drop_prompts(self, session: Session) -> None:
        self._num_kept_bytes -= len(session.latest) + sum(len(data) for data, _ in session.prompts.values())
        session.latest = b""
        session.prompts.clear()
        self._find_by(session, [])


def _list_heads(data: bytes, namespace: str) -> list[int]:
    """Hashes of the beginnings of `data` whose length is a power of two, the shortest first."""
    num_bytes = len(data)
    return [hash((namespace, data[:length])) for length in _HEAD_LENGTHS if length <= num_bytes]


def _continues(known: bytes, data: bytes) -> bool:
    return bool(known) and 2 * common_prefix(known, data) >= min(len(known), len(data))
