"""Decides on moves: one worker at a time, from a pool that can do without it to the one where calls wait longest.

What keeps it from moving workers back and forth: a pool must want a worker, and another be calm, for a whole window;
windows begin anew whenever somebody joins, leaves or is away; a calm pool is one that stays below half of its bound
with a worker less; after a move comes a pause, at least `_REST` times as long as moves take, and doubled with each move
that soon takes a worker back where one has just come from, unless that one has been needed there for long.

A pool in which nobody is up is another matter: its calls fail. Who was the last one there may have come back as what it
was started for, after its machine was lost. It gets somebody when that has lasted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prefillshare.config.roles import Roles
from prefillshare.roles.facts import Kind, Look, PoolLook, WorkerLook, name_kind
from prefillshare.roles.pool import SPARE_SHARE, PoolWindow, Pressure

_REST = 4
"""A worker that moves works for nobody: at most a fifth of the time goes into moves."""
_MOST_DOUBLINGS = 5
_SOON = 4
"""A move within so many pauses after the one before it may undo it; later, the load has changed."""
_PROOF = 2
"""A worker that was needed for so many pauses where it came is no swing when it goes back: the load has changed."""
_FIRST_MOVE_S = 30.0
"""What a move is taken to last before one was measured."""
_DECAY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A worker that is to do something else."""

    worker: str
    """Its name."""
    before: Kind
    """What it does."""
    after: Kind
    """What it is to do."""
    reason: str
    """Why, with figures."""

    @property
    def text(self) -> str:
        """What people read."""
        return f"{name_kind(self.before)} to {name_kind(self.after)}: {self.reason}"


@dataclass(slots=True, kw_only=True)
class _Unproved:
    """A move that has not been worth it yet: one that undoes it may be part of a swing."""

    before: Kind
    after: Kind
    looked_at: float
    """When it was looked at last."""
    needed_s: float = 0.0
    """How long it has been worth it, until now and without a break."""


class Policy:
    """Hears looks at a deployment, and of moves; says what to move."""

    def __init__(self, roles: Roles) -> None:
        """`roles` must say `busy_calls`."""
        self._roles = roles
        self._windows: dict[Kind, PoolWindow] = {}
        self._look: Look = {}
        self._rests_until = 0.0
        self._move_s = _FIRST_MOVE_S
        self._unproved: list[_Unproved] = []
        self._soon_until = 0.0
        self._num_reversals = 0
        self._barred: dict[tuple[Kind, Kind], tuple[float, int]] = {}
        self._seen: set[Kind] = set()
        """Kinds that had a worker: when a deployment starts they come one by one; some modules may never have any."""
        self._empty_since: dict[Kind, float] = {}

    @property
    def move_s(self) -> float:
        """How long moves take, as measured."""
        return self._move_s

    def observe(self, now: float, look: Look) -> None:
        """Take in a look; all kinds are in it, also those that have no worker."""
        self._look = look
        self._note_empty(now, look)
        for kind, pool in look.items():
            self._window_of(kind).add(now, pool)
        for kind in self._windows.keys() - look.keys():
            del self._windows[kind]
        for recent in self._unproved:
            self._look_for_proof(now, recent)
        self._unproved = [recent for recent in self._unproved if recent.needed_s < _PROOF * self._pause_s()]

    def decide(self, now: float) -> Move | None:
        """Return the move that helps most, or None. Whoever carries it out says when it has `ended`."""
        if (move := self._fill_empty(now)) is not None:
            return move
        if now < self._rests_until:
            return None
        judged = {kind: found for kind in self._look if (found := self._windows[kind].judge(now)) is not None}
        for taker in _find_wanting(judged):
            if len(self._look[taker].workers) >= self._roles.limits_of(taker).max:
                continue
            for giver in self._find_givers(now, judged, taker):
                worker = self._choose(giver)
                if worker is not None:
                    return Move(worker=worker.id, before=giver, after=taker, reason=self._explain(judged, giver, taker))
        return None

    def pause(self, now: float) -> None:
        """Hear that a move was only spoken of: the next is not before the pause is over."""
        self._rest(now)

    def ended(self, now: float, move: Move, *, seconds: float | None) -> None:
        """Hear that a move is over after so many seconds; None where it failed, and the worker does what it did."""
        if seconds is None:
            _, num_failures = self._barred.get((move.before, move.after), (0.0, 0))
            pause_s = self._pause_s() * 2 ** min(num_failures, _MOST_DOUBLINGS)
            self._barred[move.before, move.after] = (now + pause_s, num_failures + 1)
        else:
            self._barred.pop((move.before, move.after), None)
            self._move_s = self._move_s * _DECAY + seconds * (1 - _DECAY)
            self._count_reversal(now, move)
        self._rest(now)

    def figures(self, now: float) -> Mapping[Kind, Pressure | None]:
        """Return what the window says of each pool, for people."""
        return {kind: self._windows[kind].judge(now) for kind in self._look}

    def _count_reversal(self, now: float, move: Move) -> None:
        """A pool that gives what it has just got, or gets what it has just given, swings; one that goes on does not."""
        if now >= self._soon_until:
            self._num_reversals = 0
            self._unproved.clear()
        undone = [recent for recent in self._unproved if move.before == recent.after or move.after == recent.before]
        if undone:
            self._num_reversals = min(self._num_reversals + 1, _MOST_DOUBLINGS)
        self._unproved = [recent for recent in self._unproved if recent not in undone]
        self._unproved.append(_Unproved(before=move.before, after=move.after, looked_at=now))

    def _look_for_proof(self, now: float, recent: "_Unproved") -> None:
        """Count the time for which a worker is needed where it came and not missed where it went, without a break."""
        came, went = self._judge(now, recent.after), self._judge(now, recent.before)
        passed_s, recent.looked_at = now - recent.looked_at, now
        if came is not None and went is not None:
            is_needed = came.excess >= SPARE_SHARE and not went.is_wanting
            recent.needed_s = recent.needed_s + passed_s if is_needed else 0.0

    def _judge(self, now: float, kind: Kind) -> Pressure | None:
        return self._windows[kind].judge(now) if kind in self._windows else None

    def _rest(self, now: float) -> None:
        pause_s = self._pause_s() * 2**self._num_reversals
        self._rests_until, self._soon_until = now + pause_s, now + _SOON * pause_s
        for window in self._windows.values():
            window.clear()
        self._empty_since = dict.fromkeys(self._empty_since, now)

    def _pause_s(self) -> float:
        # Without a pause in the file nobody asks for one: tests, and who knows that moves are short.
        return max(self._roles.cool_down_s, _REST * self._move_s) if self._roles.cool_down_s else 0.0

    def _window_of(self, kind: Kind) -> PoolWindow:
        return self._windows.setdefault(kind, PoolWindow(kind, self._roles))

    def _find_givers(self, now: float, judged: Mapping[Kind, Pressure], taker: Kind) -> Iterator[Kind]:
        """Pools that can do without a worker, the calmest first."""
        calm = [kind for kind, pressure in judged.items() if kind != taker and pressure.is_calm]
        for kind in sorted(calm, key=lambda kind: (judged[kind].load, name_kind(kind))):
            if self._may_give(now, kind, taker):
                yield kind

    def _note_empty(self, now: float, look: Look) -> None:
        self._seen.update(kind for kind, pool in look.items() if pool.has_any)
        empty = [kind for kind, pool in look.items() if kind in self._seen and not pool.has_any]
        self._empty_since = {kind: self._empty_since.get(kind, now) for kind in empty}

    def _fill_empty(self, now: float) -> Move | None:
        """Give a pool that has long been without anybody a worker of the one with the fewest calls for each."""
        # Longer than one takes to come back that is only started anew.
        lasting_s = max(self._roles.window_s, self._pause_s())
        calmest_first = sorted(self._look, key=lambda kind: (self._calls_each(kind), name_kind(kind)))
        for taker, since in self._empty_since.items():
            if now - since < lasting_s or len(self._look[taker].workers) >= self._roles.limits_of(taker).max:
                continue
            for giver in calmest_first:
                worker = self._choose(giver)
                if worker is not None and worker.is_up and self._may_give(now, giver, taker):
                    reason = f"for {now - since:.0f} s no worker for {name_kind(taker)} was up"
                    return Move(worker=worker.id, before=giver, after=taker, reason=reason)
        return None

    def _may_give(self, now: float, giver: Kind, taker: Kind) -> bool:
        is_barred = now < self._barred.get((giver, taker), (0.0, 0))[0]
        return not is_barred and len(self._look[giver].workers) > self._roles.limits_of(giver).min

    def _calls_each(self, kind: Kind) -> float:
        pool = self._look[kind]
        return pool.num_calls / max(1, len(pool.workers))

    def _choose(self, kind: Kind) -> WorkerLook | None:
        """The one with the fewest calls; of equals the youngest, which holds the least."""
        movable = [worker for worker in self._look[kind].workers if worker.can_move]
        return min(movable, key=lambda worker: (worker.calls, worker.age_s, worker.id), default=None)

    def _explain(self, judged: Mapping[Kind, Pressure], giver: Kind, taker: Kind) -> str:
        window, wanted, spare = f"{self._roles.window_s:g} s", judged[taker], judged[giver]
        return (
            f"for {window} calls waited {wanted.wait_s:.2f} s or more for {name_kind(taker)} "
            f"({_count(self._look[taker])}, {wanted.calls_each:.1f} calls each); {name_kind(giver)} "
            f"({_count(self._look[giver])}) had {spare.load:.0%} of its bound's work with one less"
        )


def _find_wanting(judged: Mapping[Kind, Pressure]) -> list[Kind]:
    """Pools that want a worker, the one that lacks it most first."""
    wanting = [kind for kind, pressure in judged.items() if pressure.is_wanting]
    return sorted(wanting, key=lambda kind: (-judged[kind].excess, name_kind(kind)))


def _count(look: PoolLook) -> str:
    number = len(look.workers)
    return f"{number} worker" if number == 1 else f"{number} workers"
