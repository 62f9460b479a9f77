"""The prefix index against the plainest thing that does the same: a set of all prefixes per worker."""

from hypothesis import given, settings
from hypothesis import strategies as st

from prefillshare.routing.choice.prefix_index import PrefixIndex
from prefillshare.routing.choice.prefix_tree import NODE_OVERHEAD_BYTES

# Few letters and workers, so that prompts share prefixes often.
PROMPTS = st.text("ab", min_size=1, max_size=8).map(lambda letters: blocks(letters))
WORKERS = st.sampled_from(["p0", "p1", "p2"])
BLOCK = 4
"""Each letter of these prompts is a block: then what is found is exact."""


def blocks(letters: str) -> bytes:
    """Return a prompt with a block for each letter."""
    return "".join(letter * BLOCK for letter in letters).encode()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), PROMPTS, WORKERS),
        st.tuples(st.just("forget"), st.just(b""), WORKERS),
    ),
    max_size=40,
)


def _longest(held: set[bytes], prompt: bytes) -> int:
    return max((n for n in range(len(prompt) + 1) if any(other.startswith(prompt[:n]) for other in held)), default=0)


@given(STEPS, PROMPTS)
@settings(max_examples=400, deadline=None)
def test_it_finds_what_each_worker_holds_of_a_prompt(steps: list[tuple[str, bytes, str]], asked: bytes) -> None:
    index = PrefixIndex(10**9, BLOCK)
    held: dict[str, set[bytes]] = {}
    for action, prompt, worker in steps:
        if action == "insert":
            index.insert(prompt, worker)
            held.setdefault(worker, set()).add(prompt)
        else:
            index.forget(worker)
            held.pop(worker, None)
    expected = {worker: length for worker, prompts in held.items() if (length := _longest(prompts, asked))}
    assert index.match(asked) == expected


@given(st.lists(st.tuples(PROMPTS, WORKERS), max_size=30), WORKERS, st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_a_worker_that_evicts_loses_the_ends_of_its_longest_unused_prefixes(
    inserted: list[tuple[bytes, str]], worker: str, evicted: int
) -> None:
    index = PrefixIndex(10**9, BLOCK)
    for prompt, holder in inserted:
        index.insert(prompt, holder)
    before = {name: index.held_bytes(name) for name in ("p0", "p1", "p2")}
    left_over = index.drop(worker, evicted)
    dropped = before[worker] - index.held_bytes(worker)
    assert dropped + left_over == evicted or (left_over == 0 and index.held_bytes(worker) == 0)
    assert all(index.held_bytes(name) == before[name] for name in before if name != worker)
    # Whatever is still held is held from its beginning on.
    for prompt, _ in inserted:
        length = index.match(prompt).get(worker, 0)
        assert all(index.match(prompt[:end]).get(worker, 0) == end for end in range(BLOCK, length + 1, BLOCK))


def test_what_could_not_be_dropped_is_dropped_later_and_forgotten_with_the_worker() -> None:
    index = PrefixIndex(10**9, BLOCK)
    prompt = blocks("prefix")
    index.insert(prompt, "p0")
    assert index.drop("p0", 16) == 16
    assert index.match(prompt) == {"p0": 24}
    assert index.drop("p0", 8) == 0
    assert index.match(prompt) == {}
    index.insert(prompt, "p0")
    assert index.drop("p0", 20) == 20
    index.forget("p0")
    index.insert(prompt, "p0")
    assert index.drop("p0", 4) == 4
    assert index.match(prompt) == {"p0": 24}


def test_the_latest_used_prefix_is_evicted_last() -> None:
    index = PrefixIndex(10**9, BLOCK)
    first, second, third = map(blocks, ("one", "two", "three"))
    for prompt in (first, second, third):
        index.insert(prompt, "p0")
    index.match(first)
    assert index.drop("p0", len(blocks("wo")) + len(blocks("hree")) + 0.5) == 0.5
    assert index.match(first) == {"p0": 12}
    assert index.match(third) == {"p0": 4}
    assert index.match(second) == {"p0": 4}


@given(st.lists(st.tuples(PROMPTS, WORKERS, st.booleans()), max_size=60), st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_it_stays_within_its_memory_and_counts_it_right(steps: list[tuple[bytes, str, bool]], num_nodes: int) -> None:
    index = PrefixIndex(num_nodes * (NODE_OVERHEAD_BYTES + 8 * BLOCK), BLOCK)
    for prompt, worker, is_asked in steps:
        index.insert(prompt, worker)
        if is_asked:
            index.match(prompt)
        assert index.num_bytes <= index.max_bytes
        assert index.num_bytes == sum(len(node.edge) + NODE_OVERHEAD_BYTES for node in index.tree._recency)
    for worker in ("p0", "p1", "p2"):
        index.forget(worker)
    assert (index.num_bytes, index.num_nodes) == (0, 0)


def test_the_longest_unused_prefix_is_forgotten_first() -> None:
    index = PrefixIndex(2 * (NODE_OVERHEAD_BYTES + 40), BLOCK)
    first, second, third = (blocks(letter * 8) for letter in "abc")
    index.insert(first, "p0")
    index.insert(second, "p0")
    index.match(first)
    index.insert(third, "p0")
    assert index.match(first) == {"p0": 32}
    assert index.match(second) == {}


def test_a_prompt_larger_than_the_index_is_not_taken() -> None:
    index = PrefixIndex(1000, BLOCK)
    index.insert(blocks("small"), "p0")
    index.insert(b"x" * 2000, "p0")
    assert index.match(blocks("small")) == {"p0": 20}
    assert index.match(b"x" * 2000) == {}


def test_whole_blocks_are_found_and_what_is_shorter_than_one_as_a_whole() -> None:
    index = PrefixIndex(10**9)
    prompt = bytes(range(200))
    index.insert(prompt, "p0")
    assert index.match(prompt) == {"p0": 192}
    assert index.match(prompt + b"and on") == {"p0": 192}
    assert index.match(prompt[:191]) == {"p0": 128}
    assert index.match(prompt[:150] + b"x" * 50) == {"p0": 128}
    assert index.match(prompt[:63]) == {}
    index.insert(b"short", "p1")
    assert index.match(b"short") == {"p1": 5}
    assert index.match(b"shorter") == {}
    assert [index.covered(length) for length in (0, 5, 63, 64, 127, 128)] == [0, 5, 63, 64, 64, 128]


def test_ten_megabytes_are_matched_in_no_time() -> None:
    index = PrefixIndex(2**26)
    prompt = bytes(10_000_000)
    index.insert(prompt, "p0")
    assert index.match(prompt[:-64] + b"x" * 64) == {"p0": len(prompt) - 64}
