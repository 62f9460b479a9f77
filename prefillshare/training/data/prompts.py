"""The prompts of a conversation: what the server makes of the turns before each answer to learn."""

from functools import partial
from typing import TYPE_CHECKING

from prefillshare.config.training import Data
from prefillshare.training.data.chat import Chat, RowError
from prefillshare.training.data.prepare import RowReport, usable_rows
from prefillshare.training.data.render import ServedChat
from prefillshare.training.data.tokenise import render_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_prompts(
    data: Data, tokenizer: "PreTrainedTokenizerBase", max_tokens: int
) -> tuple[list[list[list[int]]], RowReport]:
    """Return the prompts of each conversation that can be used, as token ids, and what became of all rows.

    Raises: TrainingError when none can be used.
    """
    return usable_rows(data, partial(_prompts_of, tokenizer=tokenizer, max_tokens=max_tokens))


def _prompts_of(chat: Chat, tokenizer: "PreTrainedTokenizerBase", max_tokens: int) -> list[list[int]]:
    prompts = render_turns(chat, tokenizer, _prompt)
    longest = max(map(len, prompts))
    if longest > max_tokens:
        raise RowError("too long", f"{longest} tokens, and max_tokens is {max_tokens}")
    return prompts


def _prompt(served: ServedChat, number: int) -> list[int]:
    return served.prompt(number).tokens
