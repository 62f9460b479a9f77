"""`prefillshare store` as a user runs it, and the folders that launchers keep and sweep."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.errors import StoreError
from prefillshare.store import KvStore, StoreOwner, StoreSettings
from prefillshare.store.folders import disk_folder, memory_folder, store_folders, stores_folder, sweep
from tests.store.children import child
from tests.store.stores import chain, identity, page, pages, read, settings


@pytest.fixture
def both(tmp_path: Path) -> StoreSettings:
    """2 MB in memory, 4 MB on disk."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "disk").mkdir()
    return settings(tmp_path / "memory", directory=tmp_path / "disk", disk_bytes=4 << 20)


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "prefillshare", "store", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def where(both: StoreSettings) -> tuple[object, ...]:
    return ("--memory", both.memory_directory, "--disk", both.directory)


def test_stores_are_listed_verified_and_cleared(both: StoreSettings) -> None:
    store = KvStore.attach(both, identity())
    keys = chain(30)
    store.write(keys, pages(keys))
    store.spill()
    memory, disk = json.loads(run("ls", *where(both), "--json").stdout)
    assert (memory["tier"], memory["store"], memory["pages"], memory["is_used"]) == ("memory", "tests", 30, True)
    assert (disk["tier"], disk["pages"], disk["is_used"]) == ("disk", 30, True)
    assert memory["identity"]["page_size"] == 16
    assert "0123abcd\t0 of 1\tnone\t30" in run("ls", *where(both)).stdout
    done = run("verify", *where(both))
    assert done.returncode == 0
    assert done.stdout.count("30 pages whole, 0 damaged") == 2
    refused = run("clear", *where(both))
    assert refused.returncode == 9
    assert "is in use" in refused.stderr
    assert read(store, keys) == 30
    store.close()
    cleared = run("clear", *where(both))
    assert cleared.returncode == 0
    assert len(cleared.stdout.splitlines()) == 2
    assert json.loads(run("ls", *where(both), "--json").stdout) == []


def test_verify_finds_the_damaged_page(both: StoreSettings) -> None:
    store = KvStore.attach(both, identity())
    keys = chain(5)
    store.write(keys, pages(keys))
    (file,) = both.memory_directory.glob("*/memory-*/*.store")
    place = file.read_bytes().index(page(keys[3]).tobytes())
    with file.open("r+b") as opened:
        os.pwrite(opened.fileno(), b"\x00\x01\x02\x03", place + 100)
    done = run("verify", *where(both), "--json")
    assert done.returncode == 9
    assert "1 pages are damaged" in done.stderr
    memory, _ = json.loads(done.stdout)
    assert memory["damaged_keys"] == [keys[3].hex()]
    assert memory["whole_pages"] == 4


def test_a_damaged_header_is_said_and_can_be_cleared(both: StoreSettings) -> None:
    KvStore.attach(both, identity()).close()
    (file,) = both.memory_directory.glob("*/memory-*/*.store")
    with file.open("r+b") as opened:
        os.pwrite(opened.fileno(), b"\xff", 20)
    assert "header damaged" in run("ls", *where(both)).stdout
    assert run("verify", *where(both)).returncode == 9
    assert run("clear", "tests", "--memory", both.memory_directory).returncode == 0
    assert not file.exists()


def test_a_file_that_cannot_be_read_hides_no_other_and_can_be_cleared(both: StoreSettings) -> None:
    for name in ("whole", "cut"):
        store = KvStore.attach(replace(both, name=name, directory=None, disk_bytes=None), identity())
        store.write(chain(5), pages(chain(5)))
        store.close()
    (file,) = both.memory_directory.glob("*/memory-cut/*.store")
    os.truncate(file, 5000)
    memory = ("--memory", both.memory_directory)
    cut, whole = json.loads(run("ls", *memory, "--json").stdout)
    assert (cut["store"], cut["trouble"]) == ("cut", "the file was cut")
    assert (whole["store"], whole["pages"], whole["trouble"]) == ("whole", 5, None)
    done = run("verify", *memory)
    assert done.returncode == 9
    assert "5 pages whole, 0 damaged" in done.stdout
    assert "1 files cannot be read (of cut): remove them with prefillshare store clear" in done.stderr
    assert run("clear", "cut", *memory).returncode == 0
    assert run("verify", *memory).returncode == 0


def test_what_is_no_file_of_a_store_hides_none(both: StoreSettings) -> None:
    assert both.directory is not None
    store = KvStore.attach(both, identity())
    store.write(chain(5), pages(chain(5)))
    store.spill()
    store.close()
    for folder, suffix in (
        (memory_folder(both.memory_directory, "tests"), "store"),
        (disk_folder(both.directory), "pages"),
    ):
        (folder / f"a folder.{suffix}").mkdir()
        (folder / f"a link.{suffix}").symlink_to(both.directory)
        os.mkfifo(folder / f"a pipe.{suffix}")
    found = json.loads(run("ls", *where(both), "--json").stdout)
    assert [entry["pages"] for entry in found if entry["trouble"] is None] == [5, 5]
    assert [entry["trouble"] for entry in found].count("no file (links are not followed)") == 6
    done = run("verify", *where(both))
    assert done.returncode == 9
    assert done.stdout.count("5 pages whole, 0 damaged") == 2
    done = run("clear", *where(both))
    assert done.returncode == 9
    assert "a folder.store cannot be removed (Is a directory)" in done.stderr
    assert both.directory.is_dir()


@pytest.mark.parametrize("harm", ["mode", "link"])
def test_a_folder_of_pages_that_is_not_this_user_s_alone_is_refused(
    both: StoreSettings, tmp_path: Path, harm: str
) -> None:
    assert both.directory is not None
    KvStore.attach(both, identity()).close()
    folder = disk_folder(both.directory)
    if harm == "mode":
        folder.chmod(0o755)
    else:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    for command in ("ls", "verify", "clear"):
        done = run(command, *where(both))
        assert done.returncode == 9
        assert str(folder) in done.stderr
    assert list(folder.glob("*.pages"))


def test_a_name_that_is_too_long_is_no_folder(tmp_path: Path) -> None:
    assert run("ls", "--memory", tmp_path / ("long" * 1000)).returncode == 0
    done = run("ls", "--memory", tmp_path, "--disk", tmp_path / ("long" * 1000))
    assert done.returncode == 9
    assert "is no folder" in done.stderr


def test_clear_by_force_and_by_a_wrong_name(both: StoreSettings) -> None:
    store = KvStore.attach(both, identity())
    keys = chain(5)
    store.write(keys, pages(keys))
    wrong = run("clear", "other", "--memory", both.memory_directory)
    assert wrong.returncode == 9
    assert "(there: tests)" in wrong.stderr
    assert run("clear", "tests", "--memory", both.memory_directory, "--force").returncode == 0
    assert read(store, keys) == 5  # what a process has open stays its own
    assert KvStore.attach(both, identity()).count_present(keys) == 0


def test_nothing_to_list_is_said(tmp_path: Path) -> None:
    done = run("ls", "--memory", tmp_path)
    assert done.returncode == 0
    assert "no store is in" in done.stderr
    assert run("ls", "--memory", tmp_path, "--disk", tmp_path / "missing").returncode == 9


def test_a_launcher_takes_its_own_store_over_and_sweeps_those_of_the_dead(tmp_path: Path) -> None:
    mine, other = settings(tmp_path), settings(tmp_path, name="other")
    keys = chain(20)

    def write_and_wait(where: StoreSettings, pipe: int) -> None:
        owner = StoreOwner(where)
        store = KvStore.attach(where, identity())
        store.write(keys, pages(keys))
        os.write(pipe, b"!")
        os.read(os.pipe()[0], 1)
        owner.end()

    reader, writer = os.pipe()
    with child(lambda: write_and_wait(mine, writer)), child(lambda: write_and_wait(other, writer)):
        assert os.read(reader, 1) + os.read(reader, 1) == b"!!"
        assert sweep(tmp_path) == []  # both live
    owner = StoreOwner(mine)
    assert not memory_folder(tmp_path, "other").exists()
    assert read(KvStore.attach(mine, identity()), keys) == 20
    owner.end()


def test_a_launcher_leaves_alone_what_is_no_store(tmp_path: Path) -> None:
    KvStore.attach(settings(tmp_path, name="other"), identity()).close()
    root, elsewhere = stores_folder(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "notes").touch()
    (root / "memory-link").symlink_to(elsewhere)
    StoreOwner(settings(tmp_path)).end()
    assert sorted(path.name for path in root.iterdir()) == ["memory-link", "notes"]
    assert list(elsewhere.iterdir()) == []


def test_a_store_that_cannot_tell_its_users_is_left_alone_and_named(tmp_path: Path) -> None:
    for name in ("tests", "other"):
        (memory_folder(tmp_path, name) / "users").mkdir(parents=True)
        for folder in (stores_folder(tmp_path), memory_folder(tmp_path, name)):
            folder.chmod(0o700)
    with pytest.raises(StoreError, match=r"users, which tells who uses the store.*remove it"):
        StoreOwner(settings(tmp_path))
    StoreOwner(settings(tmp_path, name="third")).end()
    assert store_folders(tmp_path) == [memory_folder(tmp_path, name) for name in ("other", "tests")]


def test_a_store_ends_with_its_launcher_unless_it_stays(tmp_path: Path) -> None:
    owner, staying = StoreOwner(settings(tmp_path)), StoreOwner(settings(tmp_path, name="stays"), stays=True)
    for name in ("tests", "stays"):
        KvStore.attach(settings(tmp_path, name=name), identity()).close()
    owner.end()
    staying.end()
    assert store_folders(tmp_path) == [memory_folder(tmp_path, "stays")]
    StoreOwner(settings(tmp_path, name="third")).end()
    assert store_folders(tmp_path) == [memory_folder(tmp_path, "stays")]


def test_files_of_other_weights_make_room_when_nobody_uses_them(tmp_path: Path) -> None:
    old = KvStore.attach(settings(tmp_path), identity(prefill_fingerprint="old"))
    used = KvStore.attach(settings(tmp_path), identity(prefill_fingerprint="used"))
    old.close()
    KvStore.attach(settings(tmp_path), identity())
    files = list(memory_folder(tmp_path, "tests").glob("*.store"))
    assert len(files) == 2
    keys = chain(3)
    assert used.write(keys, pages(keys)) == 3


def test_names_that_are_no_file_names_are_stores_as_well(tmp_path: Path) -> None:
    for name in ("a/b", "..", "with space", "x" * 300):
        store = KvStore.attach(settings(tmp_path, name=name), identity())
        keys = chain(2)
        assert store.write(keys, pages(keys)) == 2
    assert len(store_folders(tmp_path)) == 4
