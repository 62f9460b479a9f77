"""A quick look at held-out accuracy during training: the share of answers equal to the reference, word for word."""

from itertools import islice
from typing import TYPE_CHECKING

from torch import nn

from prefillshare.tiny.language.chatml import END, generation_prompt
from prefillshare.tiny.language.conversations import held_out_conversations
from prefillshare.tiny.language.tasks import TaskName
from prefillshare.training.reference import decode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_NEW_TOKENS = 112
PROBE_SEED = 7_000_000


def probe_accuracy(
    model: nn.Module, tokenizer: "Tokenizer", task: TaskName, seed: int, num_problems: int
) -> dict[str, float]:
    """Accuracy over the base's KV (`shared`) and over the model's own (`own`), on problems outside the suites."""
    asked = list(islice(held_out_conversations(PROBE_SEED + seed, task), num_problems))
    prompts = [
        tokenizer.encode(generation_prompt(conversation.turns(has_last_answer=False))).ids for conversation in asked
    ]
    wanted = [conversation.problems[-1].answer for conversation in asked]
    figures = {}
    for name, ratio in (("shared", 1.0), ("own", 0.0)):
        answers = decode(
            model, prompts, max_new_tokens=MAX_NEW_TOKENS, end_token=tokenizer.token_to_id(END), sharing_ratio=ratio
        )
        given = [tokenizer.decode(answer, skip_special_tokens=False) for answer in answers]
        figures[name] = sum(a == b for a, b in zip(given, wanted, strict=True)) / num_problems
    return figures
