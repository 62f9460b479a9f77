"""What the prefix index takes in memory, and that what is kept by worker stays true over any history."""

import gc
import itertools
import random
import tracemalloc

from prefillshare.routing.choice.blocks import DIGEST_BYTES
from prefillshare.routing.choice.prefix_index import PrefixIndex
from prefillshare.routing.choice.prefix_node import Node

BLOCK = 4
"""Each letter of the prompts is a block."""
WORKERS = [f"p{number}" for number in range(12)]


def test_it_takes_no_more_memory_than_it_counts() -> None:
    chance = random.Random(1)
    systems = [chance.randbytes(4000) for _ in range(10)]
    prompts = [(chance.choice(systems), chance.choice(WORKERS[:8])) for _ in range(400)]
    turns = [chance.randbytes(200) for _ in range(400 * 10)]
    gc.collect()
    tracemalloc.start()
    try:
        index = PrefixIndex(10**9)
        for at, turn in enumerate(turns):
            text, prefill = prompts[at % 400]
            index.insert(text + turn, prefill, WORKERS[8 + at // 400 % 4])
            prompts[at % 400] = text + turn, prefill
        del prompts, text
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert index.num_nodes > 4000
    assert taken <= index.num_bytes


def test_what_is_kept_by_worker_is_what_the_tree_says() -> None:
    """More holders of a node than one tuple has, evictions of the oldest, workers that evict and are forgotten."""
    for seed in range(60):
        chance = random.Random(seed)
        index = PrefixIndex(chance.choice([10**9, 6000]), BLOCK)
        for _ in range(120):
            prompt = b"".join(chance.choices((b"aaaa", b"bbbb"), k=chance.randint(1, 9)))
            match chance.randrange(12):
                case 0:
                    index.forget(chance.choice(WORKERS))
                case 1 | 2:
                    index.drop(chance.choice(WORKERS), chance.randrange(12 * BLOCK))
                case 3 | 4:
                    index.match(prompt)
                case _:
                    index.insert(prompt, *chance.sample(WORKERS, chance.choice([1, 2, 2, 11])))
            check(index)
        for worker in WORKERS:
            index.forget(worker)
        assert (index.num_bytes, index.num_nodes) == (0, 0)
        assert not index.tree._ends
        assert not index.tree._held_bytes


def check(index: PrefixIndex) -> None:
    tree = index.tree
    nodes = list(tree._recency)
    place = {node: at for at, node in enumerate(nodes)}
    for node in nodes:
        parent = node.parent
        assert parent is not None
        assert node.holders
        assert parent.child(node.edge[:DIGEST_BYTES]) is node
        if parent is not tree._root:
            assert set(node.holders) <= set(parent.holders)
            assert place[parent] > place[node]
            assert parent.used >= node.used
    assert all(earlier.used <= later.used for earlier, later in itertools.pairwise(nodes))
    for worker in WORKERS:
        held = {node for node in nodes if worker in node.holders}
        assert index.held_bytes(worker) == sum(len(node.edge) for node in held)
        assert {node for end in tree._ends.get(worker, ()) for node in way_up(end)} == held


def way_up(node: Node) -> list[Node]:
    """The node and all above it but the root."""
    way = []
    while node.parent is not None:
        way.append(node)
        node = node.parent
    return way
