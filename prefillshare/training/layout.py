"""How documents lie in the two passes of cache-conditioned fine-tuning: what the prefill module computes, what the
decode module is fed, and who sees whom.

A document is a tokenised conversation with a weight per token; a run of positive weights is one answer, a *segment*:

    tokens      x_1 ... x_{n-1} | x_n  y_1 ... y_{m-1}        (y_m is only a target)
    weights of  prefill module  | decode module
    targets                     | y_1  y_2 ... y_m

A row of a pass holds one document (padded) or all documents of the batch (packed). In a packed row the documents form
a tree: tokens that several of them start with stand there, and are computed, once. The part after the last x_n is
never given to the prefill module, since nothing sees it.

    documents  a b c d | a b e f     prefill row  a b c e        (with one token of answer each: d and f)
                                     visible to e: a b e

Under the KV rule "all-base" (ICaRus modules) the answer's KV is the prefill module's, too, and a query sees only that:

    tokens      x_1 ... x_{n-1}  x_n  y_1 ... y_{m-1}       all of them go to the prefill module
    queries                      x_n  y_1 ... y_{m-1}       each sees the KV of the tokens up to itself, itself included
    targets                      y_1  y_2 ... y_m

`sharing_ratio` r moves the boundary forward, for measurements and for modules that are to answer at any ratio: of the
n-1 tokens the first r(n-1), rounded down, are the prefill module's; the decode module computes the others itself, as
queries without target, through whose KV the gradient of the answer reaches it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefillshare.errors import TrainingError
from prefillshare.modules.manifest import KvRule

NO_TARGET = -100
Tokens = Sequence[int] | np.ndarray
Weights = Sequence[float] | np.ndarray
Documents = Sequence[tuple[Tokens, Weights]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One batch for both passes.

    Shapes: B rows, T tokens of the prefill module, Q queries of the decode module.
    """

    prefill_tokens: Tensor
    """Tokens of the prefill module [B, T]; T = 0 when the decode module computes everything itself."""
    prefill_positions: Tensor
    """Position of each in its document [B, T]."""
    prefill_mask: Tensor | None
    """Who sees whom among them [B, 1, T, T], true = visible; None = each sees all before it."""
    inputs: Tensor
    """Token fed at each query [B, Q]."""
    positions: Tensor
    """Position of each query in its document [B, Q]."""
    labels: Tensor
    """Token to predict at each query [B, Q]; -100 where there is none."""
    weights: Tensor
    """Weight of each target [B, Q], float32; 0 where there is none."""
    mask: Tensor | None
    """What each query sees [B, 1, Q, T + Q], or [B, 1, Q, T] where all KV is the prefill module's; true = visible;
    None = all queries before it (T = 0)."""
    kv_rule: KvRule
    """Whose KV the queries read from the boundary on."""
    num_tokens: int
    """Tokens of all documents, context included, padding not."""

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as a data loader hands them over."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(slots=True)
class _Row:
    """One row while it is built; all arrays are numpy."""

    tokens: list[int]
    depths: list[int]
    paths: list[np.ndarray]
    segments: list["_Segment"]

    @property
    def num_queries(self) -> int:
        return sum(len(segment.positions) for segment in self.segments)


@dataclass(slots=True)
class _Segment:
    """Queries of one answer: consecutive positions of one document."""

    positions: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    seen: np.ndarray
    """Columns of the row's prefill tokens that every query sees; under "all-base" those that the last one sees."""


def lay_out(documents: Documents, *, packed: bool, sharing_ratio: float | Sequence[float] = 1.0) -> Layout:
    """Documents for cache-conditioned training, at one sharing ratio or each at its own.

    Raises: TrainingError when a document has no target or starts with one.
    """
    ratios = [sharing_ratio] * len(documents) if isinstance(sharing_ratio, float | int) else sharing_ratio
    shared = list(zip(documents, ratios, strict=True))
    groups = [shared] if packed else [[document] for document in shared]
    return _build_layout([_build_row(group) for group in groups], _count_tokens(documents))


def lay_out_all_base(documents: Documents, *, packed: bool) -> Layout:
    """Documents for training over KV that is all the prefill module's.

    Raises: TrainingError when a document has no target or starts with one.
    """
    groups = [list(documents)] if packed else [[document] for document in documents]
    rows = [_build_row_all_base(group) for group in groups]
    return _build_layout(rows, _count_tokens(documents), kv_rule="all-base")


def lay_out_ordinary(documents: Documents, *, packed: bool) -> Layout:
    """Documents for ordinary fine-tuning: the decode module computes all tokens itself."""
    groups = [list(documents)] if packed else [[document] for document in documents]
    rows = [_Row([], [], [], [_build_whole(tokens, weights) for tokens, weights in group]) for group in groups]
    return _build_layout(rows, _count_tokens(documents), is_causal=not packed or len(documents) == 1)


def segment_bounds(weights: Weights) -> list[tuple[int, int]]:
    """Runs of positive weight as (first target, one past the last target)."""
    positive = np.asarray(weights) > 0
    edges = np.diff(positive.astype(np.int8), prepend=0, append=0)
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))


def boundaries_of(bounds: Sequence[tuple[int, int]], sharing_ratio: float) -> list[int]:
    """How many tokens of each answer's prompt are the prefill module's, of the answers in `segment_bounds`."""
    # first is where y_1 stands, first - 1 is x_n: the prefill module gets what lies before x_n, and not x_n.
    return [int(sharing_ratio * (first - 1)) for first, _ in bounds]


def _build_row(documents: Sequence[tuple[tuple[Tokens, Weights], float]]) -> _Row:
    row = _Row([], [], [], [])
    children: dict[tuple[int, int], int] = {}
    for number, ((tokens, weights), sharing_ratio) in enumerate(documents):
        bounds = _check_bounds(weights, number)
        boundaries = boundaries_of(bounds, sharing_ratio)
        # One path serves all segments of a document: the prompt of each is the beginning of the next one's.
        path = _walk(row, children, np.asarray(tokens[: max(boundaries)]).tolist())
        row.paths.append(path)
        for (first, end), boundary in zip(bounds, boundaries, strict=True):
            row.segments.append(_build_segment(tokens, weights, (boundary, first, end), path[:boundary]))
    return row


def _build_row_all_base(documents: Documents) -> _Row:
    row = _Row([], [], [], [])
    children: dict[tuple[int, int], int] = {}
    for number, (tokens, weights) in enumerate(documents):
        bounds = _check_bounds(weights, number)
        # The last y_m is only a target: nobody reads its KV.
        path = _walk(row, children, np.asarray(tokens[: bounds[-1][1] - 1]).tolist())
        row.paths.append(path)
        for first, end in bounds:
            # Queries are x_n and the answer but for y_m; the last of them sees the whole path up to itself.
            row.segments.append(_build_segment(tokens, weights, (first - 1, first, end), path[: end - 1]))
    return row


def _walk(row: _Row, children: dict[tuple[int, int], int], tokens: list[int]) -> np.ndarray:
    """Columns of the tokens in the row's tree, adding those that are new.

    KV of a token depends on all tokens before it. A column is found by its parent's column and its token, so two
    documents share it exactly where they agree from their first token on.
    """
    path, parent = np.empty(len(tokens), dtype=np.int64), -1
    for depth, token in enumerate(tokens):
        column = children.setdefault((parent, token), len(row.tokens))
        if column == len(row.tokens):
            row.tokens.append(token)
            row.depths.append(depth)
        path[depth] = parent = column
    return path


def _build_segment(tokens: Tokens, weights: Weights, bounds: tuple[int, int, int], seen: np.ndarray) -> _Segment:
    # ids       start ... first - 1 | first ... end - 1
    #           context      x_n    | y_1   ... y_m         start = first - 1 where all of the prompt is shared
    # inputs    [start, end - 1)                            y_m is never fed: it is only a target
    # targets   [start + 1, end)                            one behind the inputs
    start, first, end = bounds
    ids = np.asarray(tokens, dtype=np.int64)
    target_weights = np.asarray(weights, dtype=np.float32)[start + 1 : end].copy()
    # With a sharing ratio below 1, earlier answers may lie between the boundary and x_n: they are context here.
    target_weights[: first - 1 - start] = 0
    return _Segment(np.arange(start, end - 1), ids[start : end - 1], ids[start + 1 : end], target_weights, seen)


def _build_whole(tokens: Tokens, weights: Weights) -> _Segment:
    bounds = _check_bounds(weights, 0)
    end = bounds[-1][1]
    ids, target_weights = np.asarray(tokens, dtype=np.int64), np.asarray(weights, dtype=np.float32)
    nothing = np.empty(0, dtype=np.int64)
    return _Segment(np.arange(end - 1), ids[: end - 1], ids[1:end], target_weights[1:end], nothing)


def _check_bounds(weights: Weights, number: int) -> list[tuple[int, int]]:
    bounds = segment_bounds(weights)
    if not bounds:
        raise TrainingError(f"conversation {number} of the batch has no target token: give its answers a weight")
    if bounds[0][0] == 0:
        raise TrainingError(f"conversation {number} of the batch starts with a target: it needs a prompt before it")
    return bounds


def _build_layout(
    rows: list[_Row], num_tokens: int, *, is_causal: bool = False, kv_rule: KvRule = "own-answers"
) -> Layout:
    build_mask = _build_all_base_mask if kv_rule == "all-base" else _build_query_mask
    num_rows = len(rows)
    width, num_queries = max(len(row.tokens) for row in rows), max(row.num_queries for row in rows)
    prefill = np.zeros((2, num_rows, width), dtype=np.int64)
    queries = np.zeros((3, num_rows, num_queries), dtype=np.int64)
    queries[2] = NO_TARGET
    weights = np.zeros((num_rows, num_queries), dtype=np.float32)
    # Padding stands at the right of both passes, and no mask lets a token see it.
    for number, row in enumerate(rows):
        prefill[:, number, : len(row.tokens)] = row.tokens, row.depths
        # Segments stand side by side in the order of `_build_query_mask`, whatever document they belong to.
        at = 0
        for segment in row.segments:
            span = slice(at, at + len(segment.positions))
            queries[:, number, span] = (
                segment.inputs,
                segment.positions,
                np.where(segment.weights > 0, segment.targets, NO_TARGET),
            )
            weights[number, span] = segment.weights
            at = span.stop
    return Layout(
        prefill_tokens=torch.from_numpy(prefill[0]),
        prefill_positions=torch.from_numpy(prefill[1]),
        prefill_mask=_build_prefill_mask(rows, width),
        inputs=torch.from_numpy(queries[0]),
        positions=torch.from_numpy(queries[1]),
        labels=torch.from_numpy(queries[2]),
        weights=torch.from_numpy(weights),
        mask=None if is_causal else build_mask(rows, width, num_queries),
        kv_rule=kv_rule,
        num_tokens=num_tokens,
    )


def _build_prefill_mask(rows: list[_Row], width: int) -> Tensor | None:
    # The tree of a single document is a line: each sees all before it, which needs no mask.
    if all(len(row.paths) <= 1 for row in rows):
        return None
    mask = np.zeros((len(rows), 1, width, width), dtype=np.bool_)
    mask[:, 0, np.arange(width), np.arange(width)] = True  # padding sees itself, so that no row of scores is empty
    for number, row in enumerate(rows):
        for path in row.paths:
            # A path lists its columns from the first token on: a token sees those before it on its own path.
            mask[number, 0, path[:, None], path[None, :]] |= np.tri(len(path), dtype=np.bool_)
    return torch.from_numpy(mask)


def _build_query_mask(rows: list[_Row], width: int, num_queries: int) -> Tensor:
    """What each query sees.

    columns     0 ... T - 1                     T ... T + Q - 1
                the prefill module's KV         the queries' own KV
    segment s   its prompt up to the boundary   its own queries up to itself
    """
    mask = np.zeros((len(rows), 1, num_queries, width + num_queries), dtype=np.bool_)
    # Padding sees itself, so that no row of scores is empty.
    mask[:, 0, np.arange(num_queries), width + np.arange(num_queries)] = True
    for number, row in enumerate(rows):
        at = 0
        for segment in row.segments:
            size = len(segment.positions)
            mask[number, 0, at : at + size, segment.seen] = True
            mask[number, 0, at : at + size, width + at : width + at + size] = np.tri(size, dtype=np.bool_)
            at += size
    return torch.from_numpy(mask)


def _build_all_base_mask(rows: list[_Row], width: int, num_queries: int) -> Tensor:
    """What each query sees of the prefill module's KV, the only one there is: its document up to its own position."""
    mask = np.zeros((len(rows), 1, num_queries, width), dtype=np.bool_)
    for number, row in enumerate(rows):
        at = 0
        for segment in row.segments:
            size, num_seen = len(segment.positions), len(segment.seen)
            # `seen` ends with the columns of the queries themselves, in their order: query i sees all but the columns
            # of the size - 1 - i queries behind it.
            mask[number, 0, at : at + size, segment.seen] = np.tri(size, num_seen, num_seen - size, dtype=np.bool_).T
            at += size
        mask[number, 0, at:, 0] = True  # padding sees something, so that no row of scores is empty
    return torch.from_numpy(mask)


def _count_tokens(documents: Documents) -> int:
    return sum(len(tokens) for tokens, _ in documents)
