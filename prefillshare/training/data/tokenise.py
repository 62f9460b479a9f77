"""Chats into token documents, exactly as the serving path sees them.

Of each answer, the prompt is what the chat template makes of all turns before it, with its generation prompt; the
answer is what the template appends, up to the end-of-turn token. Both are tokenised apart, as in serving, where the
model continues the prompt's tokens.

If the next prompt begins with the tokens so far, answers share one document. Templates that rewrite earlier answers
(Qwen3 drops their thinking) make a document per answer; their common start is computed once in a packed batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefillshare.training.data.chat import Chat, RowError
from prefillshare.training.shard import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def documents_of_chat(chat: Chat, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> list[Document]:
    """One document per run of answers that follow each other token by token.

    Raises: RowError when a document is longer than `max_tokens` or the template cannot render the chat.
    """
    documents: list[tuple[list[int], list[float]]] = []
    for number, message in enumerate(chat.messages):
        if message["role"] != "assistant" or not message.get("weight", 1):
            continue
        prompt, answer = _prompt_and_answer(chat, number, tokenizer)
        if not documents or documents[-1][0] != prompt[: len(documents[-1][0])]:
            documents.append(([], []))
        tokens, weights = documents[-1]
        weights += [0.0] * (len(prompt) - len(tokens)) + [1.0] * len(answer)
        tokens[:] = [*prompt, *answer]
    longest = max(len(tokens) for tokens, _ in documents)
    if longest > max_tokens:
        raise RowError("too long", f"{longest} tokens, and max_tokens is {max_tokens}")
    return [Document(tokens=tokens, weights=weights) for tokens, weights in documents]


def _prompt_and_answer(chat: Chat, number: int, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of the prompt of assistant turn `number`, and of the turn itself with its end."""
    prompt = _render(chat, number, tokenizer, has_answer=False)
    full = _render(chat, number, tokenizer, has_answer=True)
    if not full.startswith(prompt):
        raise RowError("malformed", "the chat template does not continue its own generation prompt with the answer")
    answer = _encode(full[len(prompt) :], tokenizer)
    if tokenizer.eos_token_id not in answer:
        raise RowError("malformed", f"the chat template does not end an answer with {tokenizer.eos_token!r}")
    end = len(answer) - answer[::-1].index(tokenizer.eos_token_id)
    return _encode(prompt, tokenizer), answer[:end]


def _render(chat: Chat, number: int, tokenizer: Any, *, has_answer: bool) -> str:
    from jinja2 import TemplateError

    messages: Sequence[Any] = chat.messages[: number + has_answer]
    try:
        return tokenizer.apply_chat_template(
            list(messages), tools=list(chat.tools) or None, tokenize=False, add_generation_prompt=not has_answer
        )
    except (TemplateError, TypeError, KeyError) as error:
        raise RowError("malformed", f"the chat template refuses it ({error})") from None


def _encode(text: str, tokenizer: Any) -> list[int]:
    # The template writes special tokens itself, so none are added; a warning about length would be ours to give.
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
