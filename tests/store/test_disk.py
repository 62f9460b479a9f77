"""The disk tier: what memory gives up is there, also after everything else is gone; damage costs pages, no more."""

import os
from pathlib import Path

import pytest

from prefillshare.errors import StoreError
from prefillshare.store import KvStore, StoreOwner, StoreSettings
from prefillshare.store.folders import disk_files, disk_folder, free_bytes, memory_room, remove_folder, store_folders
from prefillshare.store.layout import WRITING
from tests.store.stores import PAGE_BYTES, chain, identity, pages, read, settings

NUM_PAGES = 700
"""More than memory holds, less than the disk does."""


@pytest.fixture
def both(tmp_path: Path) -> StoreSettings:
    """Settings of a store of 2 MB in memory and 8 MB on disk."""
    return settings(tmp_path / "memory", directory=tmp_path / "disk", disk_bytes=8 << 20)


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "disk").mkdir()


def _forget_memory(memory: Path) -> None:
    for folder in store_folders(memory):
        assert remove_folder(folder)


def test_what_memory_gives_up_is_read_from_disk_and_comes_back(both: StoreSettings) -> None:
    store = KvStore.attach(both, identity())
    old, new = chain(400, of=1), chain(400, of=2)
    store.write(old, pages(old))
    store.write(new, pages(new))
    assert store.stats().demoted_pages > 0
    assert store.count_present(old) == len(old)
    assert read(store, old) == len(old)
    assert read(store, new) == len(new)
    memory, disk = store.stats().tiers
    assert (memory.medium, disk.medium) == ("memory", "disk")
    assert store.stats().promoted_pages > 0
    assert store.stats().damaged_pages == 0
    assert disk.num_pages + memory.num_pages >= 800


def test_a_restart_with_nothing_but_the_disk_finds_what_was_spilled(both: StoreSettings) -> None:
    owner = StoreOwner(both)
    store = KvStore.attach(both, identity())
    keys = chain(NUM_PAGES)
    for start in range(0, NUM_PAGES, 100):
        store.write(keys[start : start + 100], pages(keys[start : start + 100]))
    store.close()
    owner.end()
    assert store_folders(both.memory_directory) == []
    later = KvStore.attach(both, identity())
    assert read(later, keys) == NUM_PAGES
    assert later.stats().damaged_pages == 0


def test_the_size_of_a_disk_tier_is_kept_where_none_is_set(both: StoreSettings) -> None:
    first = KvStore.attach(both, identity())
    keys = chain(NUM_PAGES)
    first.write(keys[:400], pages(keys[:400]))
    first.write(keys[400:], pages(keys[400:]), prefix=keys[:400])
    first.spill()
    size = first.stats().tiers[1].capacity_bytes
    first.close()
    _forget_memory(both.memory_directory)
    unsized = settings(both.memory_directory, directory=both.directory)
    later = KvStore.attach(unsized, identity())
    assert later.stats().tiers[1].capacity_bytes == size
    assert read(later, keys[:400]) == 400


def test_a_file_that_lost_its_end_costs_those_pages_only(both: StoreSettings) -> None:
    store = KvStore.attach(both, identity())
    keys = chain(400)
    store.write(keys, pages(keys))
    assert store.spill() == 400
    assert both.directory is not None
    (file,) = both.directory.glob("*/*.pages")
    os.truncate(file, file.stat().st_size - (8 << 20) + 200 * PAGE_BYTES)
    store.close()
    _forget_memory(both.memory_directory)
    later = KvStore.attach(both, identity())
    assert 0 < sum(read(later, [key]) for key in keys) < 200


@pytest.mark.parametrize("left", [5_000, 1 << 20])
def test_a_file_that_was_cut_while_in_use_gets_its_size_back(both: StoreSettings, left: int) -> None:
    store = KvStore.attach(both, identity())
    keys = chain(NUM_PAGES)
    assert store.write(keys, pages(keys)) == NUM_PAGES
    assert both.directory is not None
    (file,) = both.directory.glob("*/*.pages")
    size = file.stat().st_size
    os.truncate(file, left)
    for _ in range(2):  # of what was cut off only the table is left: a page is missed once, and written anew
        store.write(keys, pages(keys))
        read(store, keys)
    assert file.stat().st_size == size
    assert store.write(keys, pages(keys)) == NUM_PAGES
    assert read(store, keys) == NUM_PAGES
    assert store.stats().failures == 0


def test_a_disk_that_cannot_be_written_is_refused_with_the_fix(tmp_path: Path) -> None:
    disk_folder(tmp_path / "open").mkdir(parents=True)
    disk_folder(tmp_path / "open").chmod(0o777)
    for directory, said in (
        (Path("/proc/self"), "cannot be made"),
        (tmp_path / "no", "cannot be made"),
        (tmp_path / "open", "chmod 700"),
    ):
        with pytest.raises(StoreError, match=said):
            KvStore.attach(settings(tmp_path / "memory", directory=directory), identity())
    with pytest.raises(StoreError, match="has free"):
        KvStore.attach(settings(tmp_path / "memory", directory=tmp_path / "disk", disk_bytes=1 << 60), identity())
    with pytest.raises(StoreError, match="holds no page"):
        KvStore.attach(settings(tmp_path / "memory", directory=tmp_path / "disk", disk_bytes=100), identity())


def test_other_weights_on_the_same_folder_have_a_file_of_their_own(both: StoreSettings) -> None:
    first, second = KvStore.attach(both, identity()), KvStore.attach(both, identity(prefill_fingerprint="other"))
    keys = chain(10)
    first.write(keys, pages(keys))
    first.spill()
    assert second.count_present(keys) == 0
    assert both.directory is not None
    assert len(list(both.directory.glob("*/*.pages"))) == 2


def test_two_deployments_with_the_same_weights_share_the_disk(both: StoreSettings, tmp_path: Path) -> None:
    other = settings(tmp_path / "memory", name="other", directory=both.directory, disk_bytes=both.disk_bytes)
    first, second = KvStore.attach(both, identity()), KvStore.attach(other, identity())
    keys = chain(50)
    first.write(keys, pages(keys))
    assert second.count_present(keys) == 0
    first.spill()
    assert read(second, keys) == 50


def test_a_folder_used_from_another_shared_memory_is_refused(both: StoreSettings, tmp_path: Path) -> None:
    KvStore.attach(both, identity())
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(StoreError, match="another container"):
        KvStore.attach(
            settings(tmp_path / "elsewhere", directory=both.directory, disk_bytes=both.disk_bytes), identity()
        )


def test_sizes_that_nobody_chose_do_not_change_with_what_is_free(both: StoreSettings) -> None:
    first = KvStore.attach(both, identity())
    keys = chain(100)
    first.write(keys, pages(keys))
    first.spill()
    sizes = [tier.capacity_bytes for tier in first.stats().tiers]
    first.close()
    other = {"memory_bytes": 3 << 20, "directory": both.directory, "disk_bytes": 5 << 20}
    kept = KvStore.attach(
        settings(both.memory_directory, keeps_memory_size=True, keeps_disk_size=True, **other), identity()
    )
    assert [tier.capacity_bytes for tier in kept.stats().tiers] == sizes
    assert read(kept, keys) == 100
    kept.close()
    chosen = KvStore.attach(settings(both.memory_directory, **other), identity())
    assert [tier.capacity_bytes for tier in chosen.stats().tiers] != sizes
    assert read(chosen, keys) == 0


def test_what_a_store_has_already_counts_as_room_for_it(both: StoreSettings) -> None:
    assert both.directory is not None
    store = KvStore.attach(both, identity())
    keys = chain(100)
    store.write(keys, pages(keys))
    # Others write to this file system at the same time; the store takes 2 MB.
    room, taken = memory_room(both.memory_directory, "tests"), 0
    for path in both.memory_directory.glob("*/memory-*/*.store"):
        taken += path.stat().st_blocks * 512
    assert taken > 1.9e6
    assert abs(room - taken - free_bytes(both.memory_directory)) < 2e6
    assert [path.stat().st_blocks * 512 > 7.9e6 for path in disk_files(both.directory)] == [True]


def test_a_disk_that_fails_while_memory_makes_room_costs_the_old_pages_only(both: StoreSettings) -> None:
    store = KvStore.attach(both, identity())
    table = store._tiers[1].table
    old, new = chain(400, of=1), chain(100, of=2)
    store.write(old, pages(old))
    other = KvStore.attach(both, identity())
    with table._lock.held(5.0):
        assert other.write(new, pages(new)) == 100
    assert other.stats().failures > 0
    assert read(other, new) == 100
    states = store._tiers[0].table._states
    assert not (states == WRITING).any()


def test_a_launcher_gives_the_memory_back_when_the_disk_is_gone(both: StoreSettings) -> None:
    assert both.directory is not None
    owner = StoreOwner(both)
    store = KvStore.attach(both, identity())
    keys = chain(10)
    store.write(keys, pages(keys))
    store.close()
    disk_folder(both.directory).chmod(0o777)
    owner.end()
    assert not [folder for folder in store_folders(both.memory_directory) if folder.name.startswith("memory-")]
