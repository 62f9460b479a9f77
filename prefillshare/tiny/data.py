"""The data of each run of the tiny family, as shards."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from prefillshare.tiny.language.chatml import Piece, Turn, pieces_of
from prefillshare.tiny.language.conversations import Conversation, tuning_conversations
from prefillshare.tiny.language.corpus import documents, sample_document
from prefillshare.tiny.language.tasks import TaskName
from prefillshare.tiny.recipe import TinyRecipe
from prefillshare.training.shard import Document, Shard, write_shard

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tokenizer_texts(recipe: TinyRecipe) -> Iterator[str]:
    """The documents that the tokenizer is trained on: a thinned-out corpus."""
    rng = Random(f"tokenizer-{recipe.seed}")
    for index in range(recipe.num_tokenizer_documents):
        pieces = sample_document(rng, index / recipe.num_tokenizer_documents)
        yield "".join(piece.text for piece in pieces)


def write_corpus(recipe: TinyRecipe, tokenizer: "Tokenizer", num_tokens: int, path: Path) -> Shard:
    """The pretraining corpus of at least `num_tokens` tokens."""
    return write_shard(path, _corpus(recipe, tokenizer, num_tokens))


def write_tuning_data(recipe: TinyRecipe, tokenizer: "Tokenizer", task: TaskName, num_tokens: int, path: Path) -> Shard:
    """Conversations of at least `num_tokens` tokens in which the answers to `task` questions are the targets."""
    return write_shard(path, _tuning(recipe, tokenizer, task, num_tokens))


def encode(tokenizer: "Tokenizer", pieces: Iterable[Piece]) -> Document:
    """Tokens of the joined pieces; a token weighs what the piece of its first character weighs."""
    pieces = list(pieces)
    encoding = tokenizer.encode("".join(piece.text for piece in pieces))
    weights, ends, index = [], _ends(pieces), 0
    for start, _ in encoding.offsets:
        while start >= ends[index]:
            index += 1
        weights.append(pieces[index].weight)
    return Document(tokens=encoding.ids, weights=weights)


def tuning_pieces(conversation: Conversation, task: TaskName) -> list[Piece]:
    """The conversation with weight on the answers to `task` questions."""
    turns = conversation.turns()
    asked = iter(conversation.problems)
    return pieces_of(
        [
            Turn(role=turn.role, content=turn.content, weight=float(next(asked).task == task))
            if turn.role == "assistant"
            else turn
            for turn in turns
        ]
    )


def plan_batches(lengths: Sequence[int], batch_tokens: int, seed: int, *, pool: int = 512) -> list[list[int]]:
    """Document indices of each step: near neighbours in the order, of similar length, in at most `batch_tokens`.

    Units: batch_tokens counts padding. A curriculum in the order of documents survives, since only documents of one
    pool of neighbours are mixed.
    """
    rng = Random(f"batches-{seed}")
    plan: list[list[int]] = []
    for start in range(0, len(lengths), pool):
        indices = sorted(range(start, min(start + pool, len(lengths))), key=lambda index: lengths[index])
        batches = _cut(indices, lengths, batch_tokens)
        rng.shuffle(batches)
        plan += batches
    return plan


def _corpus(recipe: TinyRecipe, tokenizer: "Tokenizer", num_tokens: int) -> Iterator[Document]:
    made = 0
    stream = documents(recipe.seed, lambda: made / num_tokens)
    while made < num_tokens:
        document = encode(tokenizer, next(stream))
        made += len(document.tokens)
        yield document


def _tuning(recipe: TinyRecipe, tokenizer: "Tokenizer", task: TaskName, num_tokens: int) -> Iterator[Document]:
    made = 0
    conversations = tuning_conversations(recipe.seed, task)
    for _ in count():
        document = encode(tokenizer, tuning_pieces(next(conversations), task))
        if not any(document.weights):
            continue
        made += len(document.tokens)
        yield document
        if made >= num_tokens:
            return


def _ends(pieces: list[Piece]) -> list[int]:
    ends, at = [], 0
    for piece in pieces:
        at += len(piece.text)
        ends.append(at)
    return ends


def _cut(indices: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cut indices, sorted by rising length, into batches."""
    batches: list[list[int]] = [[]]
    for index in indices:
        if batches[-1] and (len(batches[-1]) + 1) * lengths[index] > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches
