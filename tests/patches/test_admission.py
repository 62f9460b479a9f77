"""New sessions wait while the contexts of those under way fill the memory; nobody waits for nothing, nor for ever."""

from array import array
from dataclasses import dataclass, field
from random import Random

import pytest

from sglang_patches.admission import rules
from sglang_patches.admission.held import BLOCK_TOKENS, HeldTokens, cut
from sglang_patches.admission.rules import FILL_SHARE, IDLE_S, SETTLED_TOKENS, Admission, Call
from sglang_patches.admission.sessions import LONGEST_KEEP_S, SHORTEST_KEEP_S, Sessions

CAPACITY = 100 * BLOCK_TOKENS
CHUNK = 10_000
"""More than the memory: sessions start together, where a test does not say otherwise."""
LONGEST_S = 60.0


def tokens(*parts: tuple[str, int]) -> array:
    """A context of parts: each so many blocks of tokens that are its name's alone."""
    return array("q", (token for name, blocks in parts for token in _made_up(name, blocks * BLOCK_TOKENS)))


def _made_up(name: str, count: int) -> list[int]:
    random = Random(name)
    return [random.randrange(30_000) for _ in range(count)]


@dataclass
class Engine:
    """An engine's calls, and the time."""

    admission: Admission = field(
        default_factory=lambda: Admission(num_capacity=CAPACITY, num_start_tokens=CHUNK, longest_wait_s=LONGEST_S)
    )
    now: float = 0.0

    def call(
        self,
        rid: str,
        *parts: tuple[str, int],
        session: str | None = None,
        namespace: str = "",
        priority: int = 0,
        max_new_tokens: int = 0,
    ) -> bool:
        """A call comes; whether it is taken at once."""
        context = cut(tokens(*parts), namespace)
        call = Call(
            rid=rid,
            context=context,
            namespace=namespace,
            session=session,
            max_new_tokens=max_new_tokens,
            priority=priority,
        )
        return self.admission.arrive(call, self.now)

    def end(self, rid: str, num_output: int = 0) -> list[str]:
        """A call ends; the calls that need wait no longer."""
        self.admission.end(rid, num_output, self.now)
        return self.taken()

    def wait(self, seconds: float) -> list[str]:
        """Time goes on; the calls that need wait no longer."""
        self.now += seconds
        return self.taken()

    def taken(self) -> list[str]:
        return list(self.admission.take_waiting(self.now))

    def turn(self, rid: str, *parts: tuple[str, int], session: str | None = None) -> None:
        """A call that is taken, and ends."""
        assert self.call(rid, *parts, session=session)
        self.end(rid)


def test_what_contexts_share_counts_once():
    held, first = HeldTokens(), cut(tokens(("system", 3), ("a", 2)), "")
    second = cut(tokens(("system", 3), ("b", 4))[:-1], "")
    held.add(first)
    assert held.num_tokens == 5 * BLOCK_TOKENS
    assert held.count_missing(second) == 4 * BLOCK_TOKENS - 1
    held.add(second)
    assert held.num_tokens == 9 * BLOCK_TOKENS - 1
    held.remove(first)
    assert held.num_tokens == second.num_tokens == 7 * BLOCK_TOKENS - 1
    held.remove(second)
    assert held.num_tokens == 0


def test_two_tenants_share_nothing():
    held = HeldTokens()
    held.add(cut(tokens(("system", 3)), "one"))
    assert held.count_missing(cut(tokens(("system", 3)), "other")) == 3 * BLOCK_TOKENS


def test_a_new_session_waits_until_one_that_is_under_way_ends():
    engine = Engine()
    engine.turn("a1", ("a", 40), session="a")
    engine.turn("b1", ("b", 30), session="b")
    assert not engine.call("c1", ("c", 30), session="c"), "70 of 100 blocks are kept, and no more may be filled"
    assert engine.call("a2", ("a", 40), ("a2", 2), session="a"), "a session under way goes on"
    assert engine.call("b2", ("b", 30), ("b2", 2), session="b")
    assert engine.end("a2") == []
    assert engine.wait(SHORTEST_KEEP_S / 2) == []
    assert engine.wait(SHORTEST_KEEP_S) == ["c1"], "a has gone quiet"


def test_where_there_is_room_nobody_waits():
    engine = Engine()
    assert all(engine.call(f"{name}1", (name, 23)) for name in "abc")
    assert engine.admission.held_back == 0


def test_a_small_call_does_not_wait_behind_a_large_one():
    engine = Engine()
    assert engine.call("a1", ("a", 75), session="a")
    assert not engine.call("b1", ("b", 30), session="b")
    engine.call("c1", ("c", 1))
    assert engine.taken() == ["c1"]


def test_calls_that_begin_like_another_need_only_what_is_their_own():
    engine = Engine()
    assert engine.call("a1", ("system", 60), ("a", 1), session="a")
    assert all(engine.call(f"{name}1", ("system", 60), (name, 1), session=name) for name in "bcd")


def test_the_youngest_gives_way_where_contexts_have_grown():
    engine = Engine()
    engine.turn("a1", ("a", 40), session="a")
    engine.turn("b1", ("b", 30), session="b")
    assert engine.call("a2", ("a", 75), session="a"), "the older one goes on"
    assert not engine.call("b2", ("b", 35), session="b")
    assert engine.admission.held_tokens == 75 * BLOCK_TOKENS
    assert not engine.call("c1", ("c", 20), session="c")
    assert engine.end("a2") == []
    assert engine.wait(LONGEST_KEEP_S) == ["b2", "c1"], "who came first goes on first"


def test_the_only_session_never_gives_way():
    engine = Engine()
    engine.turn("a1", ("a", 60), session="a")
    assert engine.call("a2", ("a", 120), session="a"), "what does not fit is the scheduler's to refuse"


def test_what_would_not_fit_even_alone_is_taken_once_it_is():
    engine = Engine()
    assert engine.call("a1", ("a", 20), session="a")
    assert not engine.call("b1", ("b", 90), session="b")
    assert engine.end("a1") == []
    assert engine.wait(LONGEST_KEEP_S) == ["b1"]


def test_nobody_waits_for_longer_than_the_longest_wait():
    engine = Engine()
    assert engine.call("a1", ("a", 75), session="a")
    assert not engine.call("b1", ("b", 40), session="b")
    assert engine.wait(LONGEST_S - 1) == []
    assert engine.wait(1) == ["b1"]
    assert engine.admission.overdue == 1
    engine.end("b1")
    assert engine.call("b2", ("b", 41), session="b"), "it has waited long enough, and goes on"
    engine.end("b2")
    engine.wait(LONGEST_S)
    assert not engine.call("b3", ("b", 42), session="b")


def test_an_engine_that_has_nothing_to_do_takes_who_waits():
    engine = Engine()
    for turn in range(3):
        engine.turn(f"a{turn}", ("a", 75), session="a")
        engine.now += LONGEST_KEEP_S * 0.8
    engine.turn("a", ("a", 75), session="a")
    assert not engine.call("b1", ("b", 40), session="b"), "a thinks, and its context is kept"
    assert engine.wait(IDLE_S / 2) == []
    assert engine.wait(IDLE_S / 2) == ["b1"]


def test_a_session_that_thinks_for_long_keeps_nothing():
    engine = Engine()
    for turn in range(3):
        engine.turn(f"a{turn}", ("a", 70), session="a")
        engine.now += 2 * LONGEST_KEEP_S
    engine.turn("a", ("a", 70), session="a")
    assert engine.call("b1", ("b", 40), session="b")


def test_single_calls_keep_nothing():
    engine = Engine()
    for number in range(20):
        engine.turn(f"{number}", (str(number), 60))


def test_sessions_without_a_name_are_known_by_their_prompt():
    engine = Engine()
    parts = [("a", 30), ("role", 2)]
    for turn in range(4):
        engine.turn(f"a{turn}", *parts)
        parts = [*parts[:-1], (f"a{turn}", 2), (f"role{turn}", 2)]
    assert engine.call("b1", ("b", 30))
    assert not engine.call("c1", ("c", 10))
    assert engine.call("a9", *parts[:-1], ("other role", 2))


def test_one_name_for_everybody_is_no_way_past_the_others():
    engine = Engine()
    names = "abcdefgh"
    taken = {name for name in names if engine.call(f"{name}1", (name, 30), session="app")}
    assert taken == {"a", "b"}
    assert engine.admission.waiting == 6
    engine.end("a1")
    assert engine.call("a2", ("a", 30), ("a2", 2), session="app"), "it goes on from what was kept for it"
    assert engine.end("b1") == []
    assert not engine.call("i1", ("i", 30), session="app"), "b may still go on"
    assert engine.wait(SHORTEST_KEEP_S) == ["c1"]


def test_who_calls_one_by_one_has_one_session_whatever_the_prompts_are():
    engine = Engine()
    engine.turn("a1", ("a", 60), session="app")
    engine.turn("b1", ("b", 60), session="app")
    assert engine.call("c1", ("c", 60), session="app")
    assert engine.call("c2", ("c", 60), ("other", 2), session="app"), "it begins as the one that runs"
    assert (engine.admission.sessions, engine.admission.held_back) == (1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_one_name_takes_no_more_memory_than_many(seed):
    """Conversations at random, all under one name, with twice the memory: what is held stays near the memory."""
    engine, random, most = Engine(), Random(seed), 0
    running: dict[str, list[tuple[str, int]]] = {}
    waiting: dict[str, list[tuple[str, int]]] = {}
    for number in range(300):
        rid, parts = str(number), [(f"conversation {random.randrange(8)}", random.randrange(15, 35))]
        target = running if engine.call(rid, *parts, session="app") else waiting
        target[rid] = parts
        most = max(most, engine.admission.held_tokens)
        ended = [engine.end(rid) for rid in random.sample(sorted(running), len(running) // 4) if running.pop(rid)]
        for rid in [*engine.wait(random.choice((0.0, 0.3))), *(rid for rids in ended for rid in rids)]:
            running[rid] = waiting.pop(rid)
    assert most <= CAPACITY


def test_sessions_start_one_after_the_other_while_others_are_at_work():
    engine = Engine(Admission(num_capacity=CAPACITY, num_start_tokens=8 * BLOCK_TOKENS, longest_wait_s=LONGEST_S))
    engine.turn("a1", ("a", 8), session="a")
    assert engine.call("b1", ("b", 8), session="b")
    assert engine.call("c1", ("c", 8), session="c"), "nobody is at work whom that would slow down"
    assert engine.call("a2", ("a", 9), session="a")
    assert not engine.call("d1", ("d", 8), session="d")
    assert engine.end("b1") == []
    engine.admission.note_output("c1", SETTLED_TOKENS - 1)
    assert engine.taken() == []
    engine.admission.note_output("c1", SETTLED_TOKENS)
    assert engine.taken() == ["d1"]


def test_who_has_more_priority_goes_first():
    engine = Engine()
    assert engine.call("a1", ("a", 75), session="a")
    assert not engine.call("b1", ("b", 30), session="b", priority=2)
    assert not engine.call("c1", ("c", 30), session="c", priority=1)
    engine.end("a1")
    assert engine.wait(SHORTEST_KEEP_S) == ["c1", "b1"]


def test_who_leaves_while_waiting_takes_nothing():
    engine = Engine()
    assert engine.call("a1", ("a", 75), session="a")
    assert not engine.call("b1", ("b", 30), session="b")
    assert not engine.call("c1", ("c", 30), session="c")
    assert engine.end("b1") == []
    engine.end("a1")
    assert engine.wait(SHORTEST_KEEP_S) == ["c1"]
    engine.end("c1")
    engine.wait(LONGEST_KEEP_S)
    engine.admission.forget_quiet(engine.now)
    assert engine.admission.held_tokens == 0
    assert (engine.admission.waiting, engine.admission.sessions) == (0, 0)


def test_expected_answers_take_room():
    engine = Engine()
    assert engine.call("a1", ("a", 60), session="a", max_new_tokens=10**6)
    for _ in range(60):
        engine.end("a1", num_output=40 * BLOCK_TOKENS)
        assert engine.call("a1", ("a", 60), session="a", max_new_tokens=10**6)
    assert not engine.call("b1", ("b", 10), session="b", max_new_tokens=1)


def test_sessions_are_forgotten():
    engine = Engine()
    engine.admission._known = known = Sessions(max_sessions=5)
    for number in range(50):
        engine.turn(f"{number}", (str(number), 2), session=str(number))
        engine.now += LONGEST_KEEP_S
        engine.admission.forget_quiet(engine.now)
    assert len(known) <= 6


@pytest.mark.parametrize("seed", range(5))
def test_the_count_is_right_after_any_schedule(seed):
    """Sessions come, call, leave and grow at random; in the end everybody was taken and nothing is held."""
    engine, random = Engine(), Random(seed)
    running: list[str] = []
    for number in range(400):
        rid, name = str(number), str(random.randrange(12))
        if engine.call(rid, ("system", 5), (name, random.randrange(1, 30)), session=name, max_new_tokens=9):
            running.append(rid)
        while running and random.random() < 0.6:
            running += engine.end(running.pop(random.randrange(len(running))), num_output=random.randrange(9))
        if random.random() < 0.1:
            running += engine.end(rid)
            running = [other for other in running if other != rid]
        running += engine.wait(random.choice((0.0, 0.1, 3.0)))
    while running or engine.admission.waiting:
        running += engine.wait(rules.IDLE_S)
        if running:
            running += engine.end(running.pop())
    engine.now += LONGEST_S
    engine.admission.forget_quiet(engine.now)
    assert (engine.admission.waiting, engine.admission.held_tokens, engine.admission.sessions) == (0, 0, 0)
    assert FILL_SHARE < 1
