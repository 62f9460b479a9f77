"""Which decode module a session calls next: agents mostly take turns.

A session's next module is what followed the longest stretch of its history that ends as its history does now. So a
cycle (A B C A B C, A A B A A B) is known after its first repetition, and a mere habit ("after A comes B") by the last
time. A session without such a stretch follows the deployment's habits.

Every guess is compared with the call that comes. Only a session whose guesses were mostly right is predicted: a wrong
push costs a transfer and KV room that nobody uses.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

MAX_HISTORY = 32
"""Calls of a session that are remembered; two rounds of sixteen agents."""
MIN_RIGHT_SHARE = 0.75
_MAX_GUESSES = 16
"""Guesses that count; twice as many are halved, so that a session that changes its ways is judged by the new ones."""
_MAX_HABITS = 1024
"""Modules after which the deployment's habits are remembered."""


@dataclass(slots=True, kw_only=True)
class _Track:
    """What is known of one session."""

    history: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_HISTORY))
    guess: str | None = None
    num_right: float = 0.0
    num_wrong: float = 0.0

    def judge(self, module: str) -> None:
        """Compare the guess with the call that came."""
        if self.guess is None:
            return
        if self.guess == module:
            self.num_right += 1
        else:
            self.num_wrong += 1
        if self.num_right + self.num_wrong >= 2 * _MAX_GUESSES:
            self.num_right, self.num_wrong = self.num_right / 2, self.num_wrong / 2

    @property
    def is_trusted(self) -> bool:
        return self.num_right >= 1 and self.num_right >= MIN_RIGHT_SHARE * (self.num_right + self.num_wrong)


class Predictor:
    """Guesses the next module of each session; forgets the longest unused sessions beyond `max_sessions`."""

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._tracks: OrderedDict[str, _Track] = OrderedDict()
        self._habits: OrderedDict[str, Counter[str]] = OrderedDict()

    def note_call(self, session: str, module: str) -> None:
        """Hear that `session` calls `module` now."""
        track = self._tracks.get(session)
        if track is None:
            track = self._tracks[session] = _Track()
        self._tracks.move_to_end(session)
        if len(self._tracks) > self._max_sessions:
            self._tracks.popitem(last=False)
        track.judge(module)
        if track.history:
            self._note_habit(track.history[-1], module)
        track.history.append(module)
        guess = guess_next(list(track.history))
        track.guess = self._usual_after(module) if guess is None else guess

    def next_module(self, session: str) -> str | None:
        """Return the module that `session` will call next; None where its guesses were not mostly right so far."""
        track = self._tracks.get(session)
        return track.guess if track is not None and track.is_trusted else None

    def _note_habit(self, before: str, module: str) -> None:
        self._habits.setdefault(before, Counter())[module] += 1
        self._habits.move_to_end(before)
        if len(self._habits) > _MAX_HABITS:
            self._habits.popitem(last=False)

    def _usual_after(self, module: str) -> str | None:
        habits = self._habits.get(module)
        return habits.most_common(1)[0][0] if habits else None


def guess_next(history: list[str]) -> str | None:
    """Return what followed the longest earlier stretch that ends as `history` does; None where there is none.

    Of equal ones the one that reaches back to the beginning counts, for nothing speaks against it, then the latest.
    """
    best, found = (0, False), None
    for shift in range(1, len(history)):
        length = _common_end(history, shift)
        rank = (length, length == len(history) - shift)
        if length and rank > best:
            best, found = rank, history[-shift]
    return found


def _common_end(history: list[str], shift: int) -> int:
    """Return how many of the latest calls equal those `shift` calls before them."""
    length = 0
    while length < len(history) - shift and history[-1 - length] == history[-1 - length - shift]:
        length += 1
    return length
