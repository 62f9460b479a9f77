"""The workers of a group by rank: the questions of policies answered from the few that can be the answer.

The answers are those of `Scanned`, which looks at everybody. What may be asked of a thousand workers per call is only
what lists that are kept up to date can tell, and what the few holders of a long prefix have in particular.

Who is cheapest depends on wait, speed and prefix. The holders of long prefixes are few: each is looked at. Of many that
hold the same prefix, as of all the others that hold none, some are met in two orders, the shortest wait first and the
fastest first: whoever was met in neither waits no less than the last in the one and is no faster than the last in the
other. What a worker would cost that is as good in both is a bound: beyond it nobody need be looked at.

    by wait    w3  w7  w1 │ .  .  .  .      all others wait at least as long as w1
    by speed   w7  w5  w2 │ .  .  .  .      and are at most as fast as w2
"""

from collections.abc import Callable, Collection, Sequence

from prefillshare.routing.choice.candidates import make_candidate, store_of
from prefillshare.routing.choice.matched import Matched
from prefillshare.routing.choice.policies import Candidate
from prefillshare.routing.choice.policies.base import most_calls
from prefillshare.routing.choice.policies.fleet import Cost, longest_wait_s
from prefillshare.routing.workers.group import Group
from prefillshare.routing.workers.ranking import Entry, Key, Ranking
from prefillshare.routing.workers.worker import Worker

_MAX_FEW = 32
"""Holders of one prefix that are looked at one by one; where there are more, they are taken as they come by rank."""
_ENDLESS: Key = (float("inf"),)


class Ranked:
    """Those of a group that can take a call now, with what they hold of its prompts; good until one changes."""

    def __init__(self, group: Group, matched: Matched) -> None:
        self._ready = group.find_ready()
        self._group = group
        self._matched = matched
        module = next((worker.spec.module for worker in self._ready.values()), None)
        self._bound = Candidate(id="", loadable_bytes=matched.length_of(store_of(module)))

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def num_busy(self) -> int:
        """How many have work to do."""
        return len(self) - self._group.by_wait.find((0.0, float("inf")))

    @property
    def typical_calls(self) -> int:
        """How many calls half of them have at most."""
        calls: int = self._group.by_calls.entries[(len(self) - 1) // 2][0]
        return calls

    def get(self, worker_id: str | None) -> Candidate | None:
        """Return the worker of that id."""
        worker = None if worker_id is None else self._ready.get(worker_id)
        return None if worker is None else self._see(worker)

    def worker(self, worker_id: str) -> Worker:
        """Return the worker of that id, which is one of these."""
        return self._ready[worker_id]

    def at_turn(self, turn: int) -> Candidate:
        """Return the worker whose turn it is."""
        return self._see(self._group.by_turn.entries[turn % len(self)][-1])

    def idlest_at_turn(self, turn: int) -> Candidate:
        """Return, of those with the fewest calls, the one whose turn it is."""
        by_calls = self._group.by_calls
        num_idle = by_calls.find((by_calls.entries[0][0] + 1,))
        return self._see(by_calls.entries[turn % num_idle][-1])

    def least_worked(self) -> Candidate:
        """Return who had the least work lately, of those that do not wait much longer than others."""
        limit_s = longest_wait_s(self._see(self._group.by_wait.entries[0][-1]), self)
        rested = (entry[-1] for entry in self._group.by_work.entries)
        return self._see(next(worker for worker in rested if worker.speed.wait_s <= limit_s))

    def longest(self) -> Candidate | None:
        """Return who holds the longest prefix; of equals the one that waits least, then the one with fewest calls."""
        found = self._first_holder(self._group.by_wait, _ENDLESS)
        return None if found is None else self._see(found)

    def lightest(self, slack: int) -> Worker:
        """Return the holder of the longest prefix among those with little load, by `most_calls`."""
        by_calls = self._group.by_calls
        fewest, _, idlest = by_calls.entries[0]
        if len(self) == 1:
            return idlest
        end = most_calls(fewest, self.typical_calls, slack) + 1
        return self._first_holder(by_calls, (end,)) or idlest

    def cheapest(self, cost_s: Cost, is_worth: Callable[[float], bool]) -> Candidate | None:
        """Return who costs least; None, or any, where `is_worth` no cost there is."""
        search = _Search(cost_s, is_worth)
        waiting, fast = self._group.by_wait.entries[0], self._group.by_speed.entries[0]
        # From level to level less of the prompt is held: once even the best of all workers would be too dear there, no
        # further level has a cheaper one.
        levels = self._matched.levels
        if search.is_over(self._at_best(waiting, fast, levels[0][0] if levels else 0)):
            return None
        for length, holders in levels:
            if len(holders) <= _MAX_FEW:
                self._meet_few(search, holders)
            elif search.is_over(self._at_best(waiting, fast, length)):
                return search.best
            else:
                self._meet_many(search, length, holders)
        self._meet_many(search, 0, None)
        return search.best

    def _meet_few(self, search: "_Search", holders: Collection[str]) -> None:
        for holder in holders:
            if holder not in search.known:  # from a longer prefix
                search.known.add(holder)
                if entry := self._group.by_turn.entry_of(holder):
                    self._meet(search, entry)

    def _meet_many(self, search: "_Search", length: int, holders: Collection[str] | None) -> None:
        """Meet those of `holders`, or of all, that may be the cheapest of those who hold no more than `length`."""
        by_wait, by_speed = self._group.by_wait.entries, self._group.by_speed
        wait_at = speed_at = 0
        while True:
            wait_at = _find_holder(by_wait, wait_at, holders)
            speed_at = _find_holder(by_speed.entries, speed_at, holders)
            if wait_at == len(by_wait) or speed_at == len(by_speed.entries):
                return
            waiting, fast = by_wait[wait_at], by_speed.entries[speed_at]
            if search.is_over(self._at_best(waiting, fast, length)):
                return
            self._meet(search, waiting)
            wait_at += 1
            # Of those that are as fast and wait as long, the first has the fewest calls. If it holds no more than the
            # others do, it stands for all.
            met = self._meet(search, fast)
            stands_for_all = met.matched_bytes <= length and met.loadable_bytes == self._bound.loadable_bytes
            speed_at = by_speed.find((*fast[:2], float("inf"))) if stands_for_all else speed_at + 1

    def _meet(self, search: "_Search", entry: Entry) -> Candidate:
        number, worker = entry[-2:]
        candidate = self._see(worker)
        search.meet(candidate, number)
        return candidate

    def _at_best(self, waiting: Entry, fast: Entry, matched_bytes: int) -> Candidate:
        """Return what waits as long as `waiting`, is as fast as `fast`, and holds or can load all that there is.

        By the keys of `Group.by_wait` and `Group.by_speed`. Good until the next one is asked for.
        """
        bound = self._bound
        bound.matched_bytes, bound.wait_s, bound.tokens_per_s = matched_bytes, waiting[0], -fast[0]
        return bound

    def _first_holder(self, ranking: Ranking, end: Key) -> Worker | None:
        """Return the holder of the longest prefix that comes before `end` in `ranking`, and of equals the first."""
        for _, holders in self._matched.levels:
            first = _first_of(holders, ranking, end)
            if first is not None:
                return first
        return None

    def _see(self, worker: Worker) -> Candidate:
        return make_candidate(worker, self._matched)


class _Search:
    """The cheapest worker of those met; of equals the one with fewest calls, then the one that joined first."""

    def __init__(self, cost_s: Cost, is_worth: Callable[[float], bool]) -> None:
        self.cost_s = cost_s
        self._is_worth = is_worth
        self._rank = (float("inf"), 0, 0)
        self.best: Candidate | None = None
        self.known: set[str] = set()
        """Holders that were looked at one by one."""

    def is_over(self, bound: Candidate) -> bool:
        """Return whether nobody who is no better than `bound` need be met."""
        bound_s = self.cost_s(bound)
        return not self._is_worth(bound_s) or bound_s > self._rank[0]

    def meet(self, candidate: Candidate, number: int) -> None:
        """Take `candidate`, the `number`-th that joined, if it is the best so far."""
        cost_s = self.cost_s(candidate)
        rank = (cost_s, candidate.num_running, number)
        if rank < self._rank:
            self._rank, self.best = rank, candidate


def _first_of(holders: Collection[str], ranking: Ranking, end: Key) -> Worker | None:
    if len(holders) <= _MAX_FEW:
        entries = [entry for holder in holders if (entry := ranking.entry_of(holder))]
        first = min(entries, default=None)
        return first[-1] if first is not None and first < end else None
    for entry in ranking.entries:
        if entry >= end:
            return None
        if entry[-1].id in holders:
            return entry[-1]
    return None


def _find_holder(entries: Sequence[Entry], start: int, holders: Collection[str] | None) -> int:
    """Return where the first of `holders`, or of all, stands from `start` on; the end if there is none."""
    if holders is None:
        return start
    for at in range(start, len(entries)):
        if entries[at][-1].id in holders:
            return at
    return len(entries)
