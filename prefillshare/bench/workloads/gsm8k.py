"""Real questions, asked by agents in turn: worked examples, one question, then each agent's contribution.

The file has one JSON object per line with `question` and `answer` (GSM8K's format). A session's context starts with
worked examples that all sessions share, up to the start length, then its own question.
"""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefillshare.bench.workloads.base import Session, Shape, Step, Workload, pick_in_turn
from prefillshare.datafiles import keep, read_rows, require_text, summarise_left_out
from prefillshare.errors import BenchError

log = logging.getLogger(__name__)

Encode = Callable[[str], tuple[int, ...]]

ROLES = (
    "Plan the next step.",
    "Compute what the plan asks for.",
    "Check the last computation.",
    "Say what is still missing.",
)
NEXT = "\n\n"


def gsm8k_agents(shape: Shape, modules: tuple[str, ...], file: Path, tokenizer_file: Path) -> Workload:
    """A session per question: every call is the next module's turn, its role at the end of the prompt.

    Raises: BenchError when a file cannot be used.
    """
    from tokenizers import Tokenizer

    rows = read_questions(file)
    random.Random(f"{shape.seed}/{shape.tags}").shuffle(rows)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    num_examples, examples = _examples(rows, shape, encode)
    asked = rows[num_examples : num_examples + shape.num_sessions]
    if len(asked) < shape.num_sessions:
        raise BenchError(
            f"{file} has {len(rows)} questions, {num_examples} of them as examples, and {shape.num_sessions} sessions "
            "were asked for: lower --sessions"
        )
    roles = [encode(f"{NEXT}{ROLES[index % len(ROLES)]}\n") for index in range(len(modules))]
    sessions = tuple(
        Session(steps=_steps(shape, modules, examples + encode(f"Question: {row['question']}"), roles, encode(NEXT)))
        for row in asked
    )
    return Workload(name="gsm8k-agents", modules=modules, sessions=sessions)


def read_questions(file: Path) -> list[dict[str, str]]:
    """All rows with a question and an answer.

    Raises: BenchError.
    """
    try:
        rows, left_out = keep(read_rows(file), _question)
    except OSError as error:
        raise BenchError(
            f"{file} cannot be read ({error.strerror or error}): name a file of questions in JSONL"
        ) from None
    if not rows:
        reason = left_out[0] if left_out else "it is empty"
        raise BenchError(f"{file} is not a file of questions ({reason}): each line needs question and answer")
    if left_out:
        log.warning("%s: %s", file, summarise_left_out(left_out))
    return rows


def _question(row: Mapping[str, Any]) -> dict[str, str]:
    return {key: require_text(row, key) for key in ("question", "answer")}


def _examples(rows: Sequence[dict[str, str]], shape: Shape, encode: Encode) -> tuple[int, tuple[int, ...]]:
    """As many worked examples as fit the start length: how many they are, and their tokens."""
    tokens: tuple[int, ...] = ()
    for count, row in enumerate(rows):
        more = encode(f"Question: {row['question']}\nAnswer: {row['answer']}{NEXT}")
        if len(tokens) + len(more) > shape.start_tokens:
            return count, tokens
        tokens += more
    return len(rows), tokens


def _steps(
    shape: Shape,
    modules: tuple[str, ...],
    start: tuple[int, ...],
    roles: Sequence[tuple[int, ...]],
    between: tuple[int, ...],
) -> tuple[Step, ...]:
    return tuple(
        Step(
            module=modules[call % len(modules)],
            added=start if call == 0 else between,
            role=roles[call % len(modules)],
            output_tokens=pick_in_turn(shape.output_tokens, call),
        )
        for call in range(shape.turns)
    )
