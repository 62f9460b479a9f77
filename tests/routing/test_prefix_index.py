"""The prefix index against the plainest thing that does the same: a set of all prefixes per worker."""

from hypothesis import given, settings
from hypothesis import strategies as st

from prefillshare.routing.choice.prefix_index import NODE_OVERHEAD_BYTES, PrefixIndex

# Few letters and workers, so that prompts share prefixes often.
PROMPTS = st.text("ab", min_size=1, max_size=8).map(str.encode)
WORKERS = st.sampled_from(["p0", "p1", "p2"])
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
    index = PrefixIndex(10**9)
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
    index = PrefixIndex(10**9)
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
        assert all(index.match(prompt[:end]).get(worker, 0) == end for end in range(1, length + 1))


def test_what_could_not_be_dropped_is_dropped_later_and_forgotten_with_the_worker() -> None:
    index = PrefixIndex(10**9)
    index.insert(b"prefix", "p0")
    assert index.drop("p0", 4) == 4
    assert index.match(b"prefix") == {"p0": 6}
    assert index.drop("p0", 2) == 0
    assert index.match(b"prefix") == {}
    index.insert(b"prefix", "p0")
    assert index.drop("p0", 5) == 5
    index.forget("p0")
    index.insert(b"prefix", "p0")
    assert index.drop("p0", 1) == 1
    assert index.match(b"prefix") == {"p0": 6}


def test_the_latest_used_prefix_is_evicted_last() -> None:
    index = PrefixIndex(10**9)
    for prompt in (b"one", b"two", b"three"):
        index.insert(prompt, "p0")
    index.match(b"one")
    assert index.drop("p0", len("wo") + len("hree") + 0.5) == 0.5
    assert index.match(b"one") == {"p0": 3}
    assert index.match(b"three") == {"p0": 1}
    assert index.match(b"two") == {"p0": 1}


@given(st.lists(st.tuples(PROMPTS, WORKERS, st.booleans()), max_size=60), st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_it_stays_within_its_memory_and_counts_it_right(steps: list[tuple[bytes, str, bool]], num_nodes: int) -> None:
    index = PrefixIndex(num_nodes * (NODE_OVERHEAD_BYTES + 8))
    for prompt, worker, is_asked in steps:
        index.insert(prompt, worker)
        if is_asked:
            index.match(prompt)
        assert index.num_bytes <= index.max_bytes
        assert index.num_bytes == sum(len(node.edge) + NODE_OVERHEAD_BYTES for node in index._recency)
    for worker in ("p0", "p1", "p2"):
        index.forget(worker)
    assert (index.num_bytes, index.num_nodes) == (0, 0)


def test_the_longest_unused_prefix_is_forgotten_first() -> None:
    index = PrefixIndex(2 * (NODE_OVERHEAD_BYTES + 10))
    index.insert(b"aaaaaaaa", "p0")
    index.insert(b"bbbbbbbb", "p0")
    index.match(b"aaaaaaaa")
    index.insert(b"cccccccc", "p0")
    assert index.match(b"aaaaaaaa") == {"p0": 8}
    assert index.match(b"bbbbbbbb") == {}


def test_a_prompt_larger_than_the_index_is_not_taken() -> None:
    index = PrefixIndex(1000)
    index.insert(b"small", "p0")
    index.insert(b"x" * 2000, "p0")
    assert index.match(b"small") == {"p0": 5}


def test_ten_megabytes_are_matched_in_no_time() -> None:
    index = PrefixIndex(2**26)
    prompt = bytes(10_000_000)
    index.insert(prompt, "p0")
    assert index.match(prompt[:-1] + b"x") == {"p0": len(prompt) - 1}
