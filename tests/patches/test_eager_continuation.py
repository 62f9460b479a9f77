"""What is computed ahead is what the next prompt begins with, whatever the template makes of history."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from prefillshare.wire.continuation import Continuation
from sglang_patches.eager.answers import EndedAnswers
from sglang_patches.eager.backlog import MAX_JOBS, Backlog, Job
from sglang_patches.eager.budget import LONGEST_BURST_S, SHARE, Budget
from sglang_patches.eager.continuation import Answer, Conversation, after_text, after_tokens, common_start
from sglang_patches.eager.kept import LONGEST_S, MAX_KEPT, Kept
from sglang_patches.eager.tails import Tails
from tests.support.chat_templates import FLAT, FUNCTIONS_FIRST, THINKING
from tests.support.engines import MODELS_DIR
from tests.support.rendering import Served, request_of, serve
from tests.support.served_chats import ASKED, CLOCK, RESULT, SYSTEM, WEATHER, user

TEMPLATES = {"plain": None, "thinking": THINKING, "functions first": FUNCTIONS_FIRST, "flat": FLAT}
CALL = '{"name": "weather", "parameters": {"city": "Oslo", "days": 1}}'


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base")


def check_next_turns(served: Served, body: dict[str, Any], text: str, turns: list[list[dict[str, Any]]]) -> None:
    """The continuation is the start of the prompt of every next turn, and all of it but a few tokens."""
    found = served.continuation(body, text)
    message = served.message(body, text)
    starts = []
    for further in turns:
        prompt = served.prompt({**body, "messages": [*body["messages"], message, *further]})
        assert prompt[: len(found)] == found
        starts.append(prompt)
    longest = len(common_start(starts)) if len(starts) > 1 else len(found)
    assert longest - len(found) <= 2
    assert len(found) > len(common_start([found, served.prompt(body)])), "nothing of the answer is there"


QUESTIONS = [[user("And Bergen?")], [user("\n\nWhy?")], [user(" so")], [user("Good."), ASKED]]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("before", [[], [SYSTEM], [ASKED, {"role": "assistant", "content": "Seven."}]])
@pytest.mark.parametrize("text", ["Seven degrees.", " Two  spaces,\n\nlines \n", "8"])
def test_every_next_question_begins_so(tokenizer, name, before, text):
    check_next_turns(serve(tokenizer, TEMPLATES[name]), {"messages": [*before, ASKED]}, text, QUESTIONS)


def test_thinking_that_the_template_drops_is_not_computed(tokenizer):
    """The caller may give it back or not; before a later question the template leaves it out."""
    served = serve(tokenizer, THINKING, reasoning_parser="qwen3")
    body = {"messages": [ASKED]}
    text = "<think>\nnorth, and cold\n</think>\n\nSeven."
    assert served.message(body, text)["reasoning_content"]
    check_next_turns(served, body, text, QUESTIONS)
    found = served.tokenizer.decode(served.continuation(body, text))
    assert "north" not in found
    assert "Seven." in found


@pytest.mark.parametrize("name", ["thinking", "functions first"])
@pytest.mark.parametrize("tools", [[WEATHER], [WEATHER, CLOCK]])
def test_a_call_of_a_function_is_computed_as_the_template_formats_it(tokenizer, name, tools):
    """The model's own text is other tokens; results follow, with any id."""
    served = serve(tokenizer, TEMPLATES[name], tool_call_parser="llama3")
    body = {"messages": [ASKED], "tools": tools}
    call = served.message(body, CALL)["tool_calls"][0]
    results = [[{**RESULT, "content": text, "tool_call_id": call["id"]}] for text in ("7", '{"warm": 7.50}', "\nno")]
    check_next_turns(served, body, CALL, results)
    assert "Oslo" in served.tokenizer.decode(served.continuation(body, CALL))


def test_how_an_answer_ended_stays_as_it_is(tokenizer):
    """A thread reads the calls of functions in it while the caller's reply is made of the same parts."""
    served = serve(tokenizer, None, tool_call_parser="llama3")
    reason = {"type": "stop", "matched": 2}
    ended = served.answer(CALL)
    answer = Answer(text=CALL, token_ids=ended.token_ids, meta_info={**ended.meta_info, "finish_reason": reason})
    body = {"messages": [ASKED], "tools": [WEATHER]}
    assert Conversation(served.serving, request_of(body)).find_continuation(answer, Tails())
    assert reason == {"type": "stop", "matched": 2}


def test_an_answer_is_cut_into_tokens_as_history(tokenizer):
    """A module may generate other tokens for a text than the tokenizer cuts it into."""
    served = serve(tokenizer, None)
    body, text = {"messages": [ASKED]}, "boxes of eggs"
    letters = [token for letter in text for token in tokenizer.encode(letter, add_special_tokens=False)]
    assert letters != tokenizer.encode(text, add_special_tokens=False)
    spelled = Answer(text=text, token_ids=letters, meta_info=served.answer(text).meta_info)
    found = Conversation(served.serving, request_of(body)).find_continuation(spelled, Tails())
    assert found == served.continuation(body, text)


def test_a_template_that_takes_no_such_history_is_a_value_error(tokenizer):
    served = serve(tokenizer, "{{ raise_exception('no') if messages | length > 1 else messages[0].content }}")
    with pytest.raises(ValueError, match="no"):
        served.continuation({"messages": [ASKED]}, "Seven.")


def test_an_answer_that_goes_on_with_the_callers_own_words_has_no_continuation(tokenizer):
    body = {"messages": [ASKED, {"role": "assistant", "content": "It is"}], "continue_final_message": True}
    assert serve(tokenizer, None).continuation(body, " seven.") == []


@pytest.mark.parametrize(
    ("token_ids", "reason", "kept"),
    [
        ([5, 6, 7], {"type": "length", "length": 3}, [5, 6, 7]),
        ([5, 6, 7], {"type": "stop", "matched": 7}, [5, 6]),
        ([5, 6, 7], {"type": "stop", "matched": 2}, [5, 6, 7]),
        ([5, 6, 7], {"type": "stop", "matched": "text"}, [5, 6, 7]),
        ([7], {"type": "stop", "matched": 7}, []),
    ],
)
def test_of_tokens_a_stop_token_is_uncertain(token_ids, reason, kept):
    answer = Answer(text="", token_ids=token_ids, meta_info={"finish_reason": reason})
    assert after_tokens([1, 2], answer) == [1, 2, *kept]


@pytest.mark.parametrize("text", [" eggs and boxes", " eggs and bo", "\n", "", "x" * 50])
def test_of_text_what_may_join_the_next_word_is_uncertain(tokenizer, text):
    answer = Answer(text=text, token_ids=[1], meta_info={})
    found = after_text(tokenizer.encode, "how many", answer)
    for more in ("xes", " more", "\n\nThen", ".", "0"):
        assert tokenizer.encode("how many" + text + more)[: len(found)] == found
    # The last word, or sixteen letters where there are no words.
    assert len(tokenizer.encode("how many" + text)) - len(found) <= 16


def test_the_oldest_job_is_given_up_and_the_newest_is_next():
    from array import array

    backlog = Backlog()
    jobs = [Job(rid=f"j{n}-", tokens=array("q", [n]), extra_key=None, module=None) for n in range(MAX_JOBS + 1)]
    assert [backlog.push(job) for job in jobs] == [None] * MAX_JOBS + [jobs[0]]
    assert backlog.pop() is jobs[-1]
    assert backlog.take("j7-") == [jobs[7]]
    assert len(backlog) == MAX_JOBS - 2
    assert len(backlog.take("")) == MAX_JOBS - 2


def test_what_is_spent_comes_back_with_time():
    now = 0.0
    budget = Budget(lambda: now)
    budget.spend(LONGEST_BURST_S)
    assert not budget.has_some()
    now += 1.0
    assert budget.has_some()
    budget.spend(2 * SHARE)
    assert not budget.has_some()
    now += 1000.0
    assert budget.has_some()
    budget.spend(LONGEST_BURST_S)
    assert not budget.has_some()


def test_what_a_template_took_that_refused_is_spent(monkeypatch):
    """Else it would refuse every answer anew, at the expense of the event loop."""
    ended = EndedAnswers(SimpleNamespace(), min_tokens=1)
    seconds = iter((0.0, 2 * LONGEST_BURST_S))
    monkeypatch.setattr("sglang_patches.eager.answers.time.thread_time", lambda: next(seconds))

    def refuse() -> list[int]:
        raise ValueError("no history")

    assert asyncio.run(ended._render(refuse, make=lambda tokens: None)) is None
    assert not ended._budget.has_some()


def test_continuations_are_few_young_and_told_once():
    async def check() -> None:
        now = 0.0
        kept = Kept(lambda: now)
        for number in range(MAX_KEPT + 1):
            found: asyncio.Future[Continuation | None] = asyncio.get_running_loop().create_future()
            found.set_result(Continuation(input_ids=[number], extra_key=None, module="m", new_tokens=1))
            kept.keep(f"r{number}", found)
        assert await kept.take("r0") is None
        taken = await kept.take("r1")
        assert taken is not None
        assert taken.input_ids == [1]
        assert await kept.take("r1") is None
        now = LONGEST_S + 1
        assert await kept.take("r2") is None

    asyncio.run(check())


def test_a_continuation_that_is_still_being_rendered_is_waited_for():
    async def check() -> None:
        kept = Kept()
        found: asyncio.Future[Continuation | None] = asyncio.get_running_loop().create_future()
        kept.keep("r", found)
        asking = asyncio.ensure_future(kept.take("r"))
        await asyncio.sleep(0)
        assert not asking.done()
        found.set_result(None)
        assert await asking is None

    asyncio.run(check())
