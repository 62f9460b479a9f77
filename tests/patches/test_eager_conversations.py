"""Random conversations over templates of many shapes: what is computed ahead is always a start of the next prompt.

The next prompt adds what a caller may add: a question, turns in the roles that the last call ended with, or the results
of functions; it gives thinking back or leaves it out.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from sglang_patches.eager.tails import Tails
from tests.support.chat_templates import FLAT, FUNCTIONS_FIRST, MERGING, OTHER_HEADER, RECENT, THINKING
from tests.support.engines import MODELS_DIR
from tests.support.rendering import Served, serve
from tests.support.served_chats import CLOCK, WEATHER, user

TEMPLATES = {
    "plain": None,
    "thinking": THINKING,
    "functions first": FUNCTIONS_FIRST,
    "flat": FLAT,
    "merging": MERGING,
    "other header": OTHER_HEADER,
    "recent": RECENT,
}
NUM_CONVERSATIONS = 40
NUM_TURNS = 4
PIECES = (
    "eggs",
    " boxes",
    "\n\n",
    " of ",
    "  ",
    "7",
    "ø",
    "<think>",
    "</think>",
    "0",
    "\n",
    " and",
    "The",
    "[",
    "x" * 20,
)
CALL = '{"name": "weather", "parameters": {"city": "Oslo", "days": %d}}'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base")


def words(random: Random) -> str:
    return "".join(random.choices(PIECES, k=random.randint(1, 8)))


def answer(random: Random, has_tools: bool) -> str:
    if has_tools and random.random() < 0.4:
        return CALL % random.randint(1, 9)
    thought = f"<think>\n{words(random)}\n</think>\n\n" if random.random() < 0.3 else ""
    return thought + words(random)


def last_roles(random: Random) -> list[str]:
    return random.choice([["user"], ["user"], ["user", "user"], ["system"], ["user", "system"]])


def ask(random: Random, roles: list[str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": words(random)} for role in roles]


def next_turns(random: Random, message: dict[str, Any], roles: list[str]) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") or []
    if calls:
        return [{"role": "tool", "content": words(random), "tool_call_id": call["id"]} for call in calls]
    return ask(random, random.choice([["user"], roles]))


def converse(served: Served, random: Random, *, tail: str | None = None) -> Iterator[tuple[list[int], list[int]]]:
    """What is computed ahead after each answer of a conversation, and the prompt that then comes.

    Each call ends with a turn of the role `tail` that the next one has not got, where that is given.
    """
    tails = Tails()
    tools = random.choice([[], [WEATHER], [WEATHER, CLOCK]])
    fields: dict[str, Any] = {"tools": tools} if tools else {}
    if random.random() < 0.3:
        fields["chat_template_kwargs"] = {"enable_thinking": False}
    roles = ["user"] if tail else last_roles(random)
    history = [{"role": "system", "content": words(random)}] if random.random() < 0.5 else []
    history += ask(random, ["user", *roles])  # so the first call says what the others end with
    for _ in range(NUM_TURNS):
        body = {"messages": [*history, *(ask(random, [tail]) if tail else [])], **fields}
        text = answer(random, bool(tools) and not tail)
        try:
            found, message = served.continuation(body, text, tails), served.message(body, text)
        except ValueError:
            return  # a template that takes no such conversation
        if random.random() < 0.5:
            message.pop("reasoning_content", None)
        history += [message, *([] if tail else next_turns(random, message, roles))]
        try:
            yield found, served.prompt({"messages": [*history, *(ask(random, [tail]) if tail else [])], **fields})
        except ValueError:
            return


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_computed_ahead_is_a_start_of_the_next_prompt(tokenizer, name):
    served = serve(tokenizer, TEMPLATES[name], reasoning_parser="qwen3", tool_call_parser="llama3")
    num_known = num_tokens = 0
    for seed in range(NUM_CONVERSATIONS):
        for number, (found, prompt) in enumerate(converse(served, Random(seed))):
            assert prompt[: len(found)] == found, (seed, number, tokenizer.decode(found), tokenizer.decode(prompt))
            num_known += len(found)
            num_tokens += len(prompt)
    print(f"{name}: {num_known} of {num_tokens} tokens of next prompts are computed ahead")
    # One that forgets its beginning changes with each turn.
    assert num_known > (0.1 if name == "recent" else 0.4) * num_tokens


@pytest.mark.parametrize("name", ["plain", "thinking", "flat", "other header"])
@pytest.mark.parametrize("role", ["user", "system"])
def test_an_instruction_that_vanishes_is_left_out_once_that_is_known(tokenizer, name, role):
    """Each module is told its role at the end of the prompt, and the next one has the answer in that place."""
    served = serve(tokenizer, TEMPLATES[name], reasoning_parser="qwen3")
    num_checked = 0
    for seed in range(NUM_CONVERSATIONS):
        for number, (found, prompt) in enumerate(converse(served, Random(seed), tail=role)):
            if number == 0:
                continue  # nobody knows yet
            num_checked += 1
            assert prompt[: len(found)] == found, (seed, number, tokenizer.decode(found), tokenizer.decode(prompt))
    assert num_checked > NUM_CONVERSATIONS


def test_a_question_that_comes_back_is_no_instruction(tokenizer):
    """Conversations of both kinds, over the same process."""
    tails = Tails()
    served = serve(tokenizer, None)
    first = [user("how many eggs?")]
    kept = [*first, {"role": "assistant", "content": "seven"}, user("and boxes?")]
    served.continuation({"messages": first}, "seven", tails)
    found = served.continuation({"messages": kept}, "nine", tails)
    prompt = served.prompt({"messages": [*kept, {"role": "assistant", "content": "nine"}, user("so?")]})
    assert prompt[: len(found)] == found
    assert "and boxes?" in tokenizer.decode(found)
