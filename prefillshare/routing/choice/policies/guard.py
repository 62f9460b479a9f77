"""The load guard: when a call leaves the prefill worker that holds its prefix.

Leaving costs the others what is prefilled again. A worker that is busy for a share r of the time needs not W but
W / (1 - r) seconds longer until it is idle again, since calls go on arriving while it catches up; all of them wait for
W. So what is prefilled again counts 1 / (1 - r) times beside the time that it takes itself. Without it, calls that flee
from each other's queues make all queues longer: where workers are never idle, leaving gains nothing for anybody.
"""

from collections.abc import Callable

from prefillshare.routing.choice.policies.base import Candidate, Wanted, finish_s, known_bytes
from prefillshare.routing.choice.policies.fleet import Fleet

MAX_PRICE = 20.0
"""Of a second that is prefilled again, in seconds: workers that are busy 95 % of the time. A worker whose queue is
longer by more than that is left all the same."""
_DECAY = 0.95


class LoadGuard:
    """Knows how busy the workers have been, from what calls have met."""

    def __init__(self, margin_s: float) -> None:
        """A call leaves for more than `margin_s` only."""
        self._margin_s = margin_s
        self._num_busy = 0.0
        self._num_met = 0.0

    @property
    def price(self) -> float:
        """What a second that is prefilled again costs the others, in seconds."""
        idle_share = 1 - self._num_busy / self._num_met if self._num_met else 1.0
        return min(1 / idle_share, MAX_PRICE) if idle_share > 0 else MAX_PRICE

    def note_load(self, fleet: Fleet) -> None:
        """A call has met these workers as they are: recent calls count most."""
        self._num_busy = self._num_busy * _DECAY + fleet.num_busy
        self._num_met = self._num_met * _DECAY + len(fleet)

    def stay_or_leave(
        self,
        preferred: Candidate,
        wanted: Wanted,
        fleet: Fleet,
        see: Callable[[Candidate], Candidate] | None = None,
    ) -> Candidate:
        """Return `preferred` unless another one would be done so much sooner that it is worth its price.

        `see` tells how the others are to be seen: as workers that hold less, maybe.
        """
        if len(fleet) == 1:
            return preferred
        price, held_bytes, bytes_per_token = self.price, preferred.matched_bytes, wanted.bytes_per_token

        def cost_s(candidate: Candidate) -> float:
            again_bytes = held_bytes - known_bytes(candidate)
            finished_s = finish_s(candidate, wanted)
            if again_bytes <= 0:
                return finished_s
            return finished_s + price * again_bytes / bytes_per_token / candidate.tokens_per_s

        stay_s = cost_s(preferred)

        def is_worth(other_s: float) -> bool:
            return other_s + self._margin_s < stay_s

        seen_cost_s = cost_s if see is None else lambda candidate: cost_s(see(candidate))
        other = fleet.cheapest(seen_cost_s, is_worth)
        return other if other is not None and is_worth(seen_cost_s(other)) else preferred
