"""The ChatML template: what models are trained on, what tools and tool calls become."""

import json
from itertools import islice

import jinja2
import pytest

from prefillshare.tiny.language.chatml import generation_prompt
from prefillshare.tiny.language.conversations import TASKS, held_out_conversations
from prefillshare.tiny.language.tokenizer import SPECIAL_TOKENS, chat_template, train_tokenizer

TOOL = {"type": "function", "function": {"name": "find_map", "parameters": {"type": "object"}}}


def render(messages, **options):
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = json.dumps
    return environment.from_string(chat_template()).render(messages=messages, **options)


@pytest.mark.parametrize("task", TASKS)
def test_equals_the_text_of_training(task):
    for conversation in islice(held_out_conversations(1, task), 20):
        turns = conversation.turns(has_last_answer=False)
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        assert render(messages, add_generation_prompt=True) == generation_prompt(turns)


def test_without_generation_prompt_it_ends_with_the_last_turn():
    assert render([{"role": "user", "content": "hi"}]) == "<|im_start|>user\nhi<|im_end|>\n"


def test_tools_stand_in_the_system_turn():
    text = render([{"role": "system", "content": "Be short."}, {"role": "user", "content": "hi"}], tools=[TOOL])
    assert text == (
        "<|im_start|>system\nBe short.\n\nFunctions:\n"
        '- {"name": "find_map", "parameters": {"type": "object"}}<|im_end|>\n'
        "<|im_start|>user\nhi<|im_end|>\n"
    )
    assert render([{"role": "user", "content": "hi"}], tools=[TOOL]).startswith("<|im_start|>system\nFunctions:\n- {")


def test_tool_calls_and_their_results():
    call = {"type": "function", "function": {"name": "find_map", "arguments": {"city": "Oslo"}}}
    text = render(
        [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": [call, {"name": "b", "arguments": '{"x": 1}'}]},
            {"role": "tool", "content": "one"},
            {"role": "tool", "content": "two"},
            {"role": "assistant", "content": "done"},
        ]
    )
    assert text == (
        "<|im_start|>user\nhi<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "find_map", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "b", "arguments": {"x": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\ndone<|im_end|>\n"
    )


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render([{"role": "user", "content": parts}]) == "<|im_start|>user\nab<|im_end|>\n"


def test_tokenizer_splits_digits_and_keeps_any_text(tmp_path):
    from transformers import AutoTokenizer

    texts = ["Mia has 123 boxes of pens\n" * 5, '{"name": "find_map"}' * 5]
    size = train_tokenizer(texts, 400, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size
    assert tokenizer.convert_ids_to_tokens(tokenizer("has 2047")["input_ids"])[-3:] == ["0", "4", "7"]
    for text in ("Grüße 北京 \t 12\n\n", "x = 3  # y", *SPECIAL_TOKENS):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert [len(tokenizer(token)["input_ids"]) for token in SPECIAL_TOKENS] == [1, 1, 1]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == (
        "<|im_start|>user\nhi<|im_end|>\n"
    )
