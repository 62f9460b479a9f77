"""What each of several workers was given to do lately, whatever of it is done by now.

How many calls a worker has tells nothing of the sessions that it serves: between two calls of theirs it looks idle.
What it was given over its last calls does. That fades with every call to any of them, not with time: it holds for
sessions that last seconds or hours. It is counted in tokens: seconds would bring in the noise of measured speeds, which
made shares differ by a third.

To let every share fade would touch all of them at each call. Instead the unit grows in which new work is counted:

    share, in tokens    raw / unit
    each call           unit *= 1 + 1 / (20 * workers);  raw of the worker that it goes to += tokens * unit
"""

_CALLS = 20
"""So many calls of each worker count, about. Simulated, 5 to 320 balance as well (docs/results/cluster-scale.md)."""
_MAX_UNIT = 1e100


class Share:
    """The work of one worker."""

    __slots__ = ("_of", "raw")

    def __init__(self, of: "RecentWork", raw: float) -> None:
        self._of = of
        self.raw = raw
        """In the unit that all shares have; good for comparing them."""

    @property
    def tokens(self) -> float:
        """Tokens that it was given to prefill."""
        return self.raw / self._of.unit


class RecentWork:
    """The shares of workers that can stand for each other."""

    def __init__(self) -> None:
        self.unit = 1.0
        self._total = 0.0
        self._shares: list[Share] = []

    def join(self) -> Share:
        """Return the share of a worker that joins: the mean, for it is not to make up for what it missed."""
        share = Share(self, self._mean)
        self._total += share.raw
        self._shares.append(share)
        return share

    def leave(self, share: Share) -> None:
        """Forget the share of a worker that leaves."""
        self._shares.remove(share)
        self._total -= share.raw

    def catch_up(self, share: Share) -> None:
        """Raise the share of a worker that was away to the mean: else all new sessions would come to it at once."""
        missed = max(0.0, self._mean - share.raw)
        share.raw += missed
        self._total += missed

    def note(self, share: Share, tokens: float) -> bool:
        """Count a call; return whether all shares have changed, in step."""
        self.unit *= 1 + 1 / (_CALLS * len(self._shares))
        share.raw += tokens * self.unit
        self._total += tokens * self.unit
        if self.unit < _MAX_UNIT:
            return False
        for each in self._shares:
            each.raw /= self.unit
        self._total = sum(each.raw for each in self._shares)
        self.unit = 1.0
        return True

    @property
    def _mean(self) -> float:
        return self._total / len(self._shares) if self._shares else 0.0
