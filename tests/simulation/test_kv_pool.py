"""A worker's KV: what is found is what was put in, in whole pages, within the capacity."""

import random
from array import array

import pytest

from prefillshare.simulation.engine.kv_pool import KvPool, Node


def _bytes(tokens: list[int]) -> bytes:
    return array("I", tokens).tobytes()


def _common(left: list[int], right: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


@pytest.mark.parametrize("page", [1, 4, 16])
def test_without_limit_everything_is_found(page: int) -> None:
    rng, pool, prompts = random.Random(page), KvPool(0, page), list[list[int]]()
    for _ in range(300):
        start = rng.choice(prompts)[: rng.randrange(60)] if prompts else []
        prompt = [*start, *(rng.randrange(3) for _ in range(rng.randrange(1, 40)))]
        best = max((_common(prompt, other) // page * page for other in prompts), default=0)
        # What others put in ends with a whole page, too.
        assert pool.match(_bytes(prompt))[1] == best
        pool.insert(_bytes(prompt))
        prompts.append(prompt)
    distinct = {tuple(prompt[: end * page]) for prompt in prompts for end in range(1, len(prompt) // page + 1)}
    assert pool.num_cached == len(distinct) * page


def test_what_is_held_and_reserved_never_exceeds_the_capacity() -> None:
    rng, pool = random.Random(5), KvPool(200, 4)
    locked: list[tuple[Node, int, list[int]]] = []
    num_refused = 0
    for _ in range(3000):
        if locked and rng.random() < 0.5:
            node, reserved, prompt = locked.pop(rng.randrange(len(locked)))
            pool.release(reserved)
            pool.insert(_bytes(prompt))
            pool.unlock(node)
        else:
            prompt = [rng.randrange(2) for _ in range(rng.randrange(1, 70))]
            node, held = pool.match(_bytes(prompt))
            pool.lock(node)
            if pool.reserve(len(prompt) - held):
                locked.append((node, len(prompt) - held, prompt))
            else:
                num_refused += 1
                pool.unlock(node)
        assert pool.num_cached + pool.num_private <= 200
        assert pool.num_locked <= pool.num_cached
        for node, _, _ in locked:
            assert node.num_locks > 0 or node.parent is None
    assert num_refused
    assert pool.num_evicted
    for node, reserved, _ in locked:
        pool.release(reserved)
        pool.unlock(node)
    assert (pool.num_private, pool.num_locked) == (0, 0)


def test_the_longest_unused_is_evicted_first() -> None:
    pool = KvPool(8, 1)
    for first in (1, 2):
        pool.insert(_bytes([first, 0, 0, 0]))
    pool.match(_bytes([1, 0, 0, 0]))
    assert pool.reserve(2)
    assert pool.match(_bytes([1, 0, 0, 0]))[1] == 4
    assert pool.match(_bytes([2, 0, 0, 0]))[1] == 0
