"""SplitZip gives every bit back: compared with a reference that was written from the format's description alone."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from prefillshare.errors import StoreError
from prefillshare.store import KvStore
from prefillshare.store.codec import make_codec
from prefillshare.store.codec.break_even import break_even_bytes_per_s, moves_sooner
from prefillshare.store.codec.kernels import WINDOW
from prefillshare.store.codec.splitzip import ESCAPE_BYTES, HEADER, SplitZip, best_low
from tests.store import stores

Values = NDArray[np.uint16]
SPECIAL = (0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81, 0x0001, 0x807F, 0x0080, 0x7F7F, 0x3F80)
"""Zeros, infinities, quiet and signalling NaNs, denormals, the smallest and the largest numbers, one."""


def kv_like(seed: int, num_values: int = 8192, scale: float = 1.0) -> Values:
    """Values with the exponents of real KV."""
    numbers = np.random.default_rng(seed).standard_normal(num_values) * scale
    return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def reference_decode(stored: bytes) -> bytes:
    """Decode as splitzip.py's drawing says, value by value."""
    mark, version, low, _, num_escapes, num_values = struct.unpack_from("<4BIQ", stored)
    assert (mark, version) == (ord("Z"), 1)
    codes, rest = stored[16 : 16 + num_values // 2], stored[16 + num_values // 2 : 16 + num_values // 2 * 3]
    exponents = []
    for byte in codes:
        exponents += [0 if code == 15 else low + code for code in (byte & 15, byte >> 4)]
    places = struct.unpack_from(f"<{num_escapes}I", stored, 16 + num_values // 2 * 3)
    for place, exponent in zip(places, stored[16 + num_values // 2 * 3 + 4 * num_escapes :], strict=True):
        exponents[place] = exponent
    values = [(bits & 0x80) << 8 | exponent << 7 | bits & 0x7F for bits, exponent in zip(rest, exponents, strict=True)]
    return struct.pack(f"<{num_values}H", *values)


def count_escapes(values: Values) -> int:
    """Values whose exponent has no code on the page's own choice of exponents."""
    exponents = (values >> 7) & 255
    low = best_low(values.view("<u4"))
    return int(np.count_nonzero((exponents != 0) & ((exponents < low) | (exponents >= low + WINDOW))))


def round_trip(codec: SplitZip, values: Values) -> int | None:
    """Encode and decode; return the encoded size, or None where the codec refuses the page."""
    page = values.view(np.uint8)
    stored = codec.encode(page)
    if stored is None:
        return None
    assert len(stored) <= codec.most_bytes(len(page))
    assert reference_decode(stored.tobytes()) == page.tobytes()
    into = np.full(len(page), 0xEE, dtype=np.uint8)
    codec.decode(stored, into)
    assert into.tobytes() == page.tobytes()
    return len(stored)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e4, 1e36])
def test_pages_like_real_kv_take_three_quarters(scale: float) -> None:
    codec = SplitZip()
    for seed in range(4):
        size = round_trip(codec, kv_like(seed, scale=scale))
        assert size is not None
        assert size < 16384 * 0.76


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(np.uint16, st.integers(1, 40).map(lambda number: 8 * number), elements=st.integers(0, 0xFFFF)),
    st.booleans(),
)
def test_any_bits_come_back_or_are_refused(values: Values, has_learned: bool) -> None:
    codec = SplitZip()
    if has_learned:
        round_trip(codec, kv_like(0))
    round_trip(codec, values)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 8191), st.sampled_from(SPECIAL) | st.integers(0, 0xFFFF)), max_size=60),
)
def test_special_values_among_others_come_back_while_there_is_room(seed: int, special: list[tuple[int, int]]) -> None:
    values = kv_like(seed)
    for place, value in special:
        values[place] = value
    codec = SplitZip()
    room = codec.most_bytes(values.nbytes) - HEADER.itemsize - values.nbytes * 3 // 4
    has_room = count_escapes(values) * ESCAPE_BYTES <= room
    assert (round_trip(codec, values) is not None) == has_room


def test_pages_of_zeros_and_half_zeros_are_encoded() -> None:
    codec = SplitZip()
    assert round_trip(codec, np.zeros(8192, dtype=np.uint16)) is not None
    half = kv_like(1)
    half[::2] = 0x8000
    assert round_trip(codec, half) is not None


def test_it_learns_again_when_the_first_page_was_of_another_kind() -> None:
    codec = SplitZip()
    assert round_trip(codec, kv_like(1, scale=1e-20)) is not None
    assert round_trip(codec, kv_like(2, scale=1e3)) is not None


def test_noise_is_refused_and_forgotten() -> None:
    codec = SplitZip()
    noise = np.random.default_rng(1).integers(0, 1 << 16, 8192, dtype=np.uint16)
    assert round_trip(codec, noise) is None
    assert round_trip(codec, kv_like(2)) is not None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(-20, 20))
def test_damaged_pages_never_write_elsewhere(place: int, byte: int, cut: int) -> None:
    codec = SplitZip()
    values = kv_like(3, num_values=2048)
    values[7::700] = 0x7F80
    stored = codec.encode(values.view(np.uint8))
    assert stored is not None
    broken = np.append(stored, np.zeros(20, dtype=np.uint8))[: len(stored) + cut].copy()
    broken[place % len(broken)] = byte
    memory = np.full(3 * 4096, 0xEE, dtype=np.uint8)
    with contextlib.suppress(ValueError):
        codec.decode(broken, memory[4096:8192])
    assert (memory[:4096] == 0xEE).all()
    assert (memory[8192:] == 0xEE).all()


def test_unaligned_buffers_are_read_and_filled() -> None:
    codec = SplitZip()
    values = kv_like(5)
    memory = np.zeros(16384 + 1, dtype=np.uint8)
    memory[1:] = values.view(np.uint8)
    stored = codec.encode(memory[1:])
    assert stored is not None
    into = np.zeros(16384 + 1, dtype=np.uint8)
    codec.decode(stored, into[1:])
    assert into[1:].tobytes() == values.tobytes()


@pytest.mark.parametrize(("kv_dtype", "page_bytes"), [("float32", 4096), ("float8_e5m2", 4096), ("bfloat16", 4104)])
def test_other_pages_are_refused_with_the_fix(kv_dtype: str, page_bytes: int) -> None:
    with pytest.raises(StoreError, match='set codec = "auto"'):
        make_codec("splitzip", kv_dtype, page_bytes)
    assert make_codec("none", kv_dtype, page_bytes) is None


def test_a_store_keeps_a_third_more_pages_with_it_and_all_of_them_right(tmp_path: Path) -> None:
    who = stores.identity(kv_dtype="bfloat16", page_bytes=16384)
    (tmp_path / "memory").mkdir()
    (tmp_path / "disk").mkdir()
    where = stores.settings(
        tmp_path / "memory", memory_bytes=4 << 20, codec="splitzip", directory=tmp_path / "disk", disk_bytes=8 << 20
    )
    store = KvStore.attach(where, who)
    keys = stores.chain(600)
    # Some pages are noise, which no codec makes smaller: they take two slots.
    content = [
        kv_like(number).view(np.uint8) if number % 10 else np.random.default_rng(number).bytes(16384)
        for number in range(600)
    ]
    pages = [np.frombuffer(page, dtype=np.uint8) for page in content]
    assert store.write(keys[:200], pages[:200]) == 200
    assert store.write(keys[200:400], pages[200:400], prefix=keys[:200]) == 200
    assert store.write(keys[400:], pages[400:], prefix=keys[:400]) == 200
    into = [np.zeros(16384, dtype=np.uint8) for _ in keys]
    assert store.read(keys, into) == 600
    assert all(came.tobytes() == page.tobytes() for came, page in zip(into, pages, strict=True))
    memory, disk = store.stats().tiers
    assert memory.num_pages * 16384 > 1.1 * memory.capacity_bytes
    assert disk.num_pages > 0
    assert store.stats().damaged_pages == 0
    store.spill()
    later = KvStore.attach(where, who)
    assert later.read(keys, into) == 600


def test_a_store_with_another_codec_is_made_anew(tmp_path: Path) -> None:
    who = stores.identity(kv_dtype="bfloat16")
    first = KvStore.attach(stores.settings(tmp_path, codec="splitzip"), who)
    keys = stores.chain(3)
    first.write(keys, stores.pages(keys))
    first.close()
    later = KvStore.attach(stores.settings(tmp_path), who)
    assert later.count_present(keys) == 0
    assert later.write(keys, stores.pages(keys)) == 3
    assert stores.read(later, keys) == 3


@pytest.mark.parametrize("ratio", [1.1, 1.33, 2.0])
def test_at_the_break_even_both_ways_take_the_same_time(ratio: float) -> None:
    codec = 3e9
    link = break_even_bytes_per_s(codec, ratio)
    assert 1 / link == pytest.approx(1 / codec + 1 / (ratio * link))
    assert moves_sooner(0.9 * link, codec, ratio)
    assert not moves_sooner(1.1 * link, codec, ratio)
    with pytest.raises(ValueError, match="never pays"):
        break_even_bytes_per_s(codec, 1.0)
