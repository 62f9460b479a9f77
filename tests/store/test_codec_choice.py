"""`codec = "auto"`: what goes to a disk is encoded where that was measured to be sooner; both kinds are read."""

from pathlib import Path

import numpy as np
import pytest

from prefillshare.store import KvStore, chain_keys
from prefillshare.store.codec.break_even import in_a_row
from prefillshare.store.codec.speed import CodecSpeed, measured_speed
from prefillshare.store.codec.splitzip import SplitZip
from prefillshare.store.inspect import find_stores, verify_store
from prefillshare.store.table import as_words
from tests.store.stores import PAGE_BYTES, chain, identity, pages, read, settings

BF16 = {"kv_dtype": "torch.bfloat16"}


def _values(seed: int) -> np.ndarray:
    """A page of bfloat16 values that are spread as those of KV are."""
    values = np.random.Generator(np.random.SFC64(seed)).standard_normal(PAGE_BYTES // 2, dtype=np.float32)
    return np.ascontiguousarray(values.view("<u2")[1::2]).view(np.uint8)


def _auto(folder: Path, monkeypatch: pytest.MonkeyPatch, codec_bytes_per_s: float) -> KvStore:
    """A store with a disk, on a machine whose codec has that speed."""
    speed = CodecSpeed(encode_bytes_per_s=codec_bytes_per_s, decode_bytes_per_s=codec_bytes_per_s, ratio=1.33)
    monkeypatch.setattr("prefillshare.store.codec.choice.measured_speed", lambda codec: speed)
    (folder / "disk").mkdir(exist_ok=True)
    where = settings(folder, memory_bytes=200_000, directory=folder / "disk", disk_bytes=4 << 20)
    return KvStore.attach(where, identity(**BF16))


@pytest.mark.parametrize(("codec_bytes_per_s", "is_encoded"), [(1e15, True), (1.0, False)])
def test_on_disk_pages_are_encoded_where_that_was_measured_to_be_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec_bytes_per_s: float, is_encoded: bool
) -> None:
    store = _auto(tmp_path, monkeypatch, codec_bytes_per_s)
    keys = chain_keys(identity(**BF16), None, np.arange(300 * 16), 16)
    right = [_values(number) for number in range(300)]
    for start in range(0, 300, 10):  # the first ones go to disk before its speed is known
        store.write(keys[start : start + 10], right[start : start + 10], prefix=keys[:start])
    memory, disk = store.stats().tiers
    assert (memory.encoding.is_encoded, disk.encoding.is_encoded) == (False, is_encoded)
    assert disk.encoding.medium_bytes_per_s > 0
    into = [np.empty(PAGE_BYTES, dtype=np.uint8) for _ in keys]
    assert store.read(keys, into) == 300
    assert [page.tobytes() for page in into] == [page.tobytes() for page in right]
    assert store.read(keys[-5:], into[:5]) == 5
    assert store.stats().damaged_pages == 0
    found = {at.medium: at for at in find_stores(tmp_path, tmp_path / "disk")}
    assert found["memory"].num_encoded == 0
    assert (found["disk"].num_encoded > 0) == is_encoded
    assert verify_store(found["disk"]).damaged_keys == []
    store.close()


def test_pages_of_either_kind_are_read_whatever_is_set_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _auto(tmp_path, monkeypatch, 1e15)
    keys = chain_keys(identity(**BF16), None, np.arange(200 * 16), 16)
    for start in range(0, 200, 10):
        store.write(keys[start : start + 10], [_values(number) for number in range(start, start + 10)])
    store.close()
    where = settings(tmp_path, memory_bytes=200_000, directory=tmp_path / "disk", disk_bytes=4 << 20, codec="none")
    plain = KvStore.attach(where, identity(**BF16))
    into = [np.empty(PAGE_BYTES, dtype=np.uint8) for _ in keys]
    assert plain.read(keys, into) == 200
    assert [page.tobytes() for page in into] == [_values(number).tobytes() for number in range(200)]
    plain.close()


def test_a_page_with_a_codec_that_nobody_knows_is_a_miss(tmp_path: Path) -> None:
    store = KvStore.attach(settings(tmp_path), identity())
    keys = chain(3)
    store.write(keys, pages(keys))
    table = store._tiers[0].table
    (slot,) = table.find(as_words(keys[1:2]))
    table._records[slot]["codec"] = 77
    assert read(store, keys) == 1
    assert store.stats().damaged_pages == 1
    store.write(keys, pages(keys))
    assert read(store, keys) == 3
    store.close()


def test_the_codecs_speed_is_measured_once_for_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = measured_speed(SplitZip())
    assert 1.2 < first.ratio < 1.4
    monkeypatch.setattr("prefillshare.store.codec.speed.probe", lambda codec: pytest.fail("it is known"))
    assert measured_speed(SplitZip()) == first
    (tmp_path / "prefillshare" / "codec-speed.json").write_text("{ damaged")
    monkeypatch.setattr("prefillshare.store.codec.speed.probe", lambda codec: first)
    assert measured_speed(SplitZip()) == first


def test_without_a_disk_or_with_another_type_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefillshare.store.codec.choice.measured_speed", lambda codec: pytest.fail("measured"))
    (tmp_path / "disk").mkdir()
    KvStore.attach(settings(tmp_path), identity(**BF16)).close()
    KvStore.attach(settings(tmp_path, name="b", directory=tmp_path / "disk", disk_bytes=1 << 20), identity()).close()


def test_the_speed_of_ways_in_a_row() -> None:
    assert in_a_row((2.0, 2.0)) == 1.0
    assert in_a_row((0.0, 3.0)) == pytest.approx(3.0)
    assert in_a_row((0.0,)) == 0.0
