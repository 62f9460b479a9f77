"""Chats into token documents, exactly as the serving path sees them.

Of each answer, the prompt is what the server makes of all turns before it (`render`); the answer is what the template
appends, up to the end-of-turn token. Both are tokenised apart, as in serving, where the model continues the prompt's
tokens.

If the next prompt begins with the tokens so far, answers share one document. Templates that rewrite earlier answers
(Qwen3 drops their thinking) make a document per answer; their common start is computed once in a packed batch.
"""

from collections.abc import Callable
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any, TypeVar

from prefillshare.errors import PrefillShareError, TrainingError, first_line
from prefillshare.training.data.chat import Chat, RowError, is_target
from prefillshare.training.data.render import Prompt, ServedChat
from prefillshare.training.shard import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


def documents_of_chat(chat: Chat, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> list[Document]:
    """One document per run of answers that follow each other token by token.

    Raises: RowError when a document is longer than `max_tokens`, or server or template refuse the chat.
    """
    documents: list[tuple[list[int], list[float]]] = []
    for prompt, answer in _answers(chat, tokenizer):
        if not documents or documents[-1][0] != prompt[: len(documents[-1][0])]:
            documents.append(([], []))
        tokens, weights = documents[-1]
        weights += [0.0] * (len(prompt) - len(tokens)) + [1.0] * len(answer)
        tokens[:] = [*prompt, *answer]
    longest = max(len(tokens) for tokens, _ in documents)
    if longest > max_tokens:
        raise RowError("too long", f"{longest} tokens, and max_tokens is {max_tokens}")
    return [Document(tokens=tokens, weights=weights) for tokens, weights in documents]


def _answers(chat: Chat, tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompt and answer of every turn to learn."""
    return render_turns(chat, tokenizer, lambda served, number: _prompt_and_answer(served, number, tokenizer))


def render_turns(chat: Chat, tokenizer: Any, render: Callable[[ServedChat, int], T]) -> list[T]:
    """What `render` makes of every turn to learn.

    Raises: RowError when server or template refuse the chat.
    """
    numbers = [number for number, message in enumerate(chat.messages) if is_target(message)]
    try:
        served = ServedChat(chat, tokenizer)
        return [render(served, number) for number in numbers]
    except (RowError, PrefillShareError):
        raise
    except OSError as error:
        # A full disk is no fault of the row: with that left out, a run would learn from less than it was given.
        raise TrainingError(
            f"a chat could not be tokenised ({_reason(error)}): free some space in {gettempdir()}, and run it again"
        ) from None
    except Exception as error:  # a chat template is a program, and raises what it likes on turns not made for it
        raise RowError("malformed", f"the chat template refuses it ({_reason(error)})") from None


def _prompt_and_answer(served: ServedChat, number: int, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of the prompt of assistant turn `number`, and of the turn itself with its end."""
    prompt = served.prompt(number)
    full = served.with_answer(number, prompt)
    answer = _encode(_cut_answer(full, prompt), tokenizer)
    if tokenizer.eos_token_id not in answer:
        raise RowError("malformed", f"the chat template does not end an answer with {tokenizer.eos_token!r}")
    end = len(answer) - answer[::-1].index(tokenizer.eos_token_id)
    return prompt.tokens, answer[:end]


def _cut_answer(full: str, prompt: Prompt) -> str:
    """What the template writes of an answer behind its prompt."""
    if not full.startswith(prompt.text):
        raise RowError("malformed", "the chat template does not continue its own generation prompt with the answer")
    spoken = full[len(prompt.text) :]
    if prompt.prefix not in spoken:
        raise RowError("malformed", f"the chat template does not keep the prefix {prompt.prefix[:40]!r} as it is")
    # Before the prefix a template may write what the server does not, such as Qwen3's empty thinking.
    return spoken[spoken.index(prompt.prefix) + len(prompt.prefix) :]


def _encode(text: str, tokenizer: Any) -> list[int]:
    # The template writes special tokens itself, so none are added; a warning about length would be ours to give.
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)[:200]}"
