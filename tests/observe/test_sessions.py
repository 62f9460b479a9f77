"""Which calls are one session, and where the prompts of its modules part."""

import random

import pytest

from prefillshare.observe.sessions import MAX_LISTED, Prompt, SessionTable


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def ids(*tokens: int) -> Prompt:
    """A prompt of token ids, four bytes each."""
    return Prompt(data=b"".join(token.to_bytes(4, "little") for token in tokens), token_bytes=4)


def call(table: SessionTable, name: str | None, module: str, prompt: Prompt, num_tokens: int | None = None) -> None:
    session = table.begin(name, module, prompt)
    assert session is not None
    tokens = len(prompt.data) // (prompt.token_bytes or 1) if num_tokens is None else num_tokens
    table.note_prefill(session, module, prompt, tokens=tokens, own=1, cross=2)
    table.end_call(session)


def divergence(table: SessionTable, name: str) -> dict | None:
    return next(one for one in table.as_list() if one["id"] == name)["divergence"]


def test_a_named_session_sums_up_its_calls() -> None:
    table = SessionTable(Clock())
    call(table, "s", "math", ids(*range(10)))
    call(table, "s", "tool", ids(*range(20)))
    (told,) = table.as_list()
    assert told["is_explicit"]
    assert told["modules"] == ["math", "tool"]
    assert (told["num_calls"], told["running"], told["context_tokens"]) == (2, 0, 20)
    assert (told["prompt_tokens"], told["own_hit_tokens"], told["cross_hit_tokens"]) == (30, 2, 4)
    assert told["first_seen"] < told["last_seen"]
    assert told["divergence"] is None, "one prompt goes on where the other stops"


def test_a_role_in_front_parts_the_modules_near_0_and_at_the_end_near_1() -> None:
    table = SessionTable(Clock())
    context = list(range(100, 200))
    call(table, "front", "math", ids(1, 2, 3, *context))
    call(table, "front", "tool", ids(1, 9, 9, *context))
    assert divergence(table, "front") == {"token": 1, "fraction": pytest.approx(1 / 103), "modules": ["math", "tool"]}
    call(table, "end", "math", ids(*context, 1, 2, 3))
    call(table, "end", "tool", ids(*context, 1, 9, 9))
    assert divergence(table, "end") == {
        "token": 101,
        "fraction": pytest.approx(101 / 103),
        "modules": ["math", "tool"],
    }


def test_the_earliest_parting_pair_is_told_and_a_better_prompt_mends_it() -> None:
    table = SessionTable(Clock())
    call(table, "s", "math", ids(*range(50), 7))
    call(table, "s", "tool", ids(*range(50), 8))
    call(table, "s", "code", ids(9, *range(49)))
    found = divergence(table, "s")
    assert found is not None
    assert found["token"] == 0
    assert "code" in found["modules"]
    call(table, "s", "code", ids(*range(50), 9))
    found = divergence(table, "s")
    assert found is not None
    assert found["token"] == 50


def test_of_text_the_token_is_estimated_by_the_prompts_own_tokens() -> None:
    table = SessionTable(Clock())
    call(table, "s", "math", Prompt(data=b"a" * 200 + b"b" * 200), 100)
    call(table, "s", "tool", Prompt(data=b"a" * 200 + b"c" * 200), 100)
    assert divergence(table, "s") == {"token": 50, "fraction": 0.5, "modules": ["math", "tool"]}


def test_the_shared_part_of_a_new_prompt_is_that_with_the_nearest_other_module() -> None:
    table = SessionTable(Clock())
    share = []
    for module, prompt in (("math", ids(*range(40))), ("code", ids(5, 5)), ("tool", ids(*range(30), 9, 9))):
        session = table.begin("s", module, prompt)
        assert session is not None
        share.append(table.note_prefill(session, module, prompt, tokens=len(prompt.data) // 4, own=0, cross=0))
    assert share == [None, 0.0, pytest.approx(30 / 32)]


def test_calls_without_a_name_belong_together_when_one_prompt_goes_on_from_the_other() -> None:
    table = SessionTable(Clock())
    words = random.Random(3)
    contexts = [[words.randrange(10**6) for _ in range(60)] for _ in range(20)]
    for length in (20, 40, 60):
        for context in contexts:
            call(table, None, "math" if length == 40 else "tool", ids(*context[:length]))
    assert len(table) == len(contexts)
    assert all(not one["is_explicit"] and one["num_calls"] == 3 for one in table.as_list())


def test_tenants_are_never_guessed_to_be_one_session() -> None:
    table = SessionTable(Clock())
    for namespace in ("a", "b", "a"):
        prompt = Prompt(data=b"the same words for everybody", namespace=namespace)
        call(table, None, "math", prompt, 6)
    assert sorted(one["num_calls"] for one in table.as_list()) == [1, 2]


def test_a_nameless_call_with_a_tiny_prompt_is_no_session() -> None:
    table = SessionTable(Clock())
    assert table.begin(None, "math", ids(1, 2)) is None
    assert len(table) == 0


def test_newest_activity_first_and_not_more_than_the_limit() -> None:
    table = SessionTable(Clock())
    for number in range(MAX_LISTED + 5):
        call(table, f"s{number}", "math", ids(1))
    call(table, "s7", "math", ids(1))
    told = [one["id"] for one in table.as_list()]
    assert len(told) == MAX_LISTED
    assert told[:2] == ["s7", f"s{MAX_LISTED + 4}"]


def test_the_longest_unused_session_is_forgotten_first() -> None:
    table = SessionTable(Clock(), max_sessions=2)
    for name in ("a", "b", "a", "c"):
        call(table, name, "math", ids(1, 2, 3, 4))
    assert {one["id"] for one in table.as_list()} == {"a", "c"}
    for number in range(50):
        call(table, None, "math", ids(*range(number * 100, number * 100 + 8)))
    assert len(table) == 2
    assert len(table._heads) <= 2 * 2, "beginnings of forgotten sessions are forgotten too"


def test_remembered_prompts_stay_within_their_memory() -> None:
    table = SessionTable(Clock(), max_kept_bytes=10_000)
    for number in range(40):
        for module in ("math", "tool"):
            call(table, f"s{number}", module, Prompt(data=bytes([number]) * 900), 300)
        call(table, None, "math", Prompt(data=bytes([100 + number]) * 900), 300)
        kept = [one.latest for one in table._sessions.values()]
        kept += [data for one in table._sessions.values() for data, _ in one.prompts.values()]
        assert sum(map(len, kept)) == table._num_kept_bytes <= 10_000
    assert len(table) == 80, "the sessions themselves are kept"


def test_a_session_that_is_forgotten_during_its_call_keeps_nothing() -> None:
    table, prompt = SessionTable(Clock(), max_sessions=2), ids(*range(100))
    session = table.begin("slow", "math", prompt)
    assert session is not None
    for name in ("a", "b"):
        call(table, name, "math", ids(1, 2, 3, 4))
    table.note_prefill(session, "math", prompt, tokens=100, own=0, cross=0)
    table.end_call(session)
    assert table._num_kept_bytes == 2 * 16


def test_a_session_that_moved_counts_it() -> None:
    table = SessionTable(Clock())
    call(table, "s", "math", ids(1))
    table.count_move("s")
    table.count_move("nobody")
    assert table.as_list()[0]["repins"] == 1
