"""Every plan of GPUs: aligned groups that are shared as a whole or not at all, and memory that adds up."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefillshare.errors import ConfigError
from prefillshare.serving.plan.memory import GIB, Limits, WorkerMemory, reserve_bytes, sglang_static_bytes
from prefillshare.serving.plan.placement import (
    GpuPlace,
    place_workers,
    plan_groups,
    plan_uneven_groups,
    replace_worker,
)

SIZES = st.integers(min_value=1, max_value=17)


def _limits(page: int = 16, tokens: int | None = None, fraction: float | None = None) -> Limits:
    return Limits(page_size=page, max_total_tokens=tokens, mem_fraction=fraction, chunk_tokens=None)


def _worker(name: str = "worker", weights: int = 16 * GIB, limits: Limits | None = None) -> WorkerMemory:
    return WorkerMemory(
        name=name,
        weight_bytes=weights,
        kv_token_bytes=147456,
        token_bytes=655360,
        gpus_each=1,
        limits=limits or _limits(),
    )


@given(num_workers=SIZES, num_gpus=SIZES, gpus_each=st.integers(min_value=1, max_value=8))
def test_two_workers_have_the_same_gpus_or_none_in_common(num_workers: int, num_gpus: int, gpus_each: int) -> None:
    if gpus_each > num_gpus:
        with pytest.raises(ConfigError, match="tensor_parallel_size"):
            plan_groups(num_workers, num_gpus, gpus_each)
        return
    groups = plan_groups(num_workers, num_gpus, gpus_each)
    assert len(groups) == num_workers
    for group in groups:
        assert group == tuple(range(group[0], group[0] + gpus_each))
        assert group[0] % gpus_each == 0
        assert group[-1] < num_gpus
    assert all(one == other or not set(one) & set(other) for one, other in combinations(groups, 2))
    sizes = [groups.count(group) for group in dict.fromkeys(groups)]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == 1 or len(sizes) == num_gpus // gpus_each, "a GPU is shared while others are free"
    assert sizes == sorted(sizes), "prefill workers, which come first, share last"


@pytest.mark.parametrize(
    ("num_workers", "num_gpus", "gpus_each", "groups"),
    [
        (5, 8, 2, [(0, 1), (2, 3), (4, 5), (6, 7), (6, 7)]),
        (2, 4, 2, [(0, 1), (2, 3)]),
        (4, 1, 1, [(0,)] * 4),
        (3, 7, 3, [(0, 1, 2), (3, 4, 5), (3, 4, 5)]),
    ],
)
def test_places_by_example(num_workers: int, num_gpus: int, gpus_each: int, groups: list[tuple[int, ...]]) -> None:
    assert plan_groups(num_workers, num_gpus, gpus_each) == groups


@given(
    weights=st.lists(st.integers(min_value=GIB, max_value=40 * GIB), min_size=1, max_size=6),
    gpu_gib=st.lists(st.integers(min_value=8, max_value=180), min_size=1, max_size=6),
    page=st.sampled_from([1, 16, 64]),
)
def test_what_shares_a_gpu_fits_together_or_is_refused(weights: list[int], gpu_gib: list[int], page: int) -> None:
    workers = [_worker(f"worker-{number}", size, _limits(page)) for number, size in enumerate(weights)]
    groups = plan_groups(len(workers), len(gpu_gib), 1)
    try:
        places = place_workers(workers, [size * GIB for size in gpu_gib])
    except ConfigError:
        assert any(_is_full(workers, groups, gpu, gpu_gib[gpu[0]] * GIB, page) for gpu in groups)
        return
    for gpu in {place.gpus for place in places}:
        inside = [(worker, place) for worker, place in zip(workers, places, strict=True) if place.gpus == gpu]
        memory = gpu_gib[gpu[0]] * GIB
        if len(inside) == 1:
            assert inside[0][1].kv_tokens is None
            continue
        tokens = [place.kv_tokens or 0 for _, place in inside]
        assert min(tokens) >= page
        assert all(count % page == 0 for count in tokens)
        own = sum(worker.weight_bytes + reserve_bytes(worker, memory, 1, None) for worker, _ in inside)
        assert own + sum(tokens) * workers[0].kv_token_bytes <= memory
        _assert_the_last_to_load_gets_its_tokens(inside[0][1].mem_fraction or 0, memory, workers[0])


def _is_full(
    workers: list[WorkerMemory], groups: list[tuple[int, ...]], gpu: tuple[int, ...], memory: int, page: int
) -> bool:
    inside = [worker for worker, group in zip(workers, groups, strict=True) if group == gpu]
    alone = memory - sglang_static_bytes(memory, 1, None) + GIB // 2
    reserve = alone if len(inside) == 1 else reserve_bytes(inside[0], memory, 1, None)
    return sum(worker.weight_bytes + page * worker.kv_token_bytes + reserve for worker in inside) > memory


def _assert_the_last_to_load_gets_its_tokens(fraction: float, memory: int, worker: WorkerMemory) -> None:
    """SGLang keeps (1 - fraction) of what was free at first; the worker's own reserve must cover that."""
    assert (1 - fraction) * memory < reserve_bytes(worker, memory, 1, None) - GIB // 2


@pytest.mark.parametrize(
    ("num_workers", "gpu_gib", "limits", "said"),
    [
        (1, 12, _limits(), r"needs 16.0 GiB for weights .* GiB are for them: set tensor_parallel_size = 2"),
        (1, 16, _limits(fraction=0.9), "by mem_fraction_static = 0.9: set tensor_parallel_size = 2"),
        (1, 19, _limits(), r"14.4 of 19.0 GiB are for them: set mem_fraction_static = 0.87 or more"),
        (1, 24, _limits(tokens=100000), r"set max_total_tokens = 509\d\d or less"),
        (1, 80, _limits(fraction=0.1), r"set mem_fraction_static = 0\.21 or more"),
        (2, 24, _limits(), r"2 workers \(worker-0, worker-1\) share GPU 0 of 24.0 GiB .* use more or larger GPUs"),
        (2, 80, _limits(tokens=500000), r"set max_total_tokens = \d+ or less"),
        (2, 80, _limits(fraction=0.85), r"set mem_fraction_static = 0\.4\d or less"),
    ],
)
def test_a_plan_that_does_not_fit_says_what_would(num_workers: int, gpu_gib: int, limits: Limits, said: str) -> None:
    workers = [_worker(f"worker-{number}", limits=limits) for number in range(num_workers)]
    with pytest.raises(ConfigError, match=said):
        place_workers(workers, [gpu_gib * GIB])


def test_the_advised_number_of_tokens_fits() -> None:
    def place(tokens: int) -> list[GpuPlace]:
        workers = [_worker(f"worker-{number}", limits=_limits(tokens=tokens)) for number in range(2)]
        return place_workers(workers, [80 * GIB])

    with pytest.raises(ConfigError) as caught:
        place(500000)
    advised = int(str(caught.value).partition("max_total_tokens = ")[2].split()[0])
    assert {found.kv_tokens for found in place(advised)} == {advised}


def test_workers_of_one_gpu_may_have_caches_of_different_sizes() -> None:
    workers = [_worker("prefill-0", GIB, _limits(tokens=32000)), _worker("decode-math-0", GIB, _limits(tokens=64000))]
    assert [place.kv_tokens for place in place_workers(workers, [80 * GIB])] == [32000, 64000]


@given(sizes=st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=6), num_gpus=st.integers(1, 40))
def test_workers_of_different_sizes_share_nothing(sizes: list[int], num_gpus: int) -> None:
    if sum(sizes) > num_gpus:
        with pytest.raises(ConfigError, match=f"take {sum(sizes)} GPUs"):
            plan_uneven_groups(sizes, num_gpus)
        return
    groups = plan_uneven_groups(sizes, num_gpus)
    assert [len(group) for group in groups] == sizes
    assert all(group[0] % len(group) == 0 for group in groups)
    used = [gpu for group in groups for gpu in group]
    assert len(set(used)) == len(used)
    assert max(used) < num_gpus


@given(
    before=st.integers(min_value=GIB, max_value=60 * GIB),
    after=st.integers(min_value=GIB, max_value=60 * GIB),
    tokens=st.integers(min_value=16, max_value=1_000_000),
)
def test_who_takes_a_place_on_a_shared_gpu_takes_nothing_of_its_neighbours(
    before: int, after: int, tokens: int
) -> None:
    kept = tokens // 16 * 16
    place = GpuPlace(gpus=(3,), num_workers=2, kv_tokens=kept, mem_fraction=0.99)
    gone, come = _worker("decode-math-0", before), _worker("prefill-1", after)
    left = (before + kept * gone.kv_token_bytes - after) // come.kv_token_bytes // 16 * 16
    if left < kept / 2:
        with pytest.raises(ConfigError, match="prefill-1 does not fit where decode-math-0 was"):
            replace_worker(place, gone, come, 141 * GIB)
        return
    found = replace_worker(place, gone, come, 141 * GIB)
    assert found.gpus == place.gpus
    assert found.kv_tokens == min(kept, left)
    taken = min(kept, left) * come.kv_token_bytes + after
    assert taken <= kept * gone.kv_token_bytes + before


def test_who_takes_a_gpu_alone_must_fit_there() -> None:
    place, small = GpuPlace(gpus=(0,)), _worker("prefill-0", 2 * GIB)
    assert replace_worker(place, small, _worker(weights=16 * GIB), 80 * GIB) == place
    with pytest.raises(ConfigError, match="needs 80"):
        replace_worker(place, small, _worker(weights=80 * GIB), 80 * GIB)
