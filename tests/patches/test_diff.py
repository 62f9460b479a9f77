"""``python -m sglang_patches diff``: what became of a symbol, told from text alone."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from textwrap import dedent

import pytest

from sglang_patches.__main__ import main
from sglang_patches.fingerprint import module_path
from sglang_patches.pin.comparison import Change, by_our_file, by_upstream_module, compare, total
from sglang_patches.pin.files import FolderFiles, ReleaseError, WheelFiles, open_files
from sglang_patches.pin.release import Release
from sglang_patches.pin.watched import Kind, Ours, WatchedSymbol, watched_symbols

OLD = {
    "sglang/__init__.py": "",
    "sglang/srt/cache.py": """
        class Cache:
            def stays(self):
                return 1

            def grows(self):
                return 1

            def goes(self):
                return 1

            def leaves(self):
                first = 1
                second = 2
                return first + second

            def is_inherited(self):
                return 1

            def changes_class(self):
                first = 1
                second = 2
                third = 3
                return first + second + third

            def __init__(self):
                pass

        def release(row):
            return row

        class Node:
            pass
        """,
}
NEW = {
    "sglang/__init__.py": "raise RuntimeError('a release is never imported')",
    "sglang/srt/cache.py": """
        from sglang.srt.rows import release
        from .rows import Node

        class Cache(rows.Heir):
            def stays(self):
                return 1

            def grows(self):
                one = 1
                return one
        """,
    "sglang/srt/rows.py": """
        def release(row, page):
            return row

        class Node:
            pass

        class Oldest:
            def is_inherited(self):
                return "by another way"

        class Heir(Oldest):
            pass

        class Base:
            def changes_class(self):
                first = 1
                second = 2
                third = 4
                return first + second + third

            def __init__(self):
                pass
        """,
    "sglang/srt/store/heirs.py": """
        class Heir(Heir):
            pass
        """,
    "sglang/srt/store/tree.py": """
        class Tree:
            def leaves(self):
                first = 1
                second = 2
                return first + second
        """,
}
OURS = Ours(path="sglang_patches/ours.py", line=3, text="def wrap():\n    pass\n")


def write_folder(parent: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (parent / name).parent.mkdir(parents=True, exist_ok=True)
        (parent / name).write_text(dedent(text))
    return parent


def write_wheel(path: Path, files: dict[str, str], version: str = "9.9.9") -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, dedent(text))
        wheel.writestr(
            f"sglang-{version}.dist-info/METADATA", f"Metadata-Version: 2.4\nName: sglang\nVersion: {version}\n"
        )
    return path


def symbol(qualname: str, ours: Ours = OURS, kind: Kind = "override") -> WatchedSymbol:
    return WatchedSymbol(module="sglang.srt.cache", qualname=qualname, kind=kind, why="a test", ours=ours)


@pytest.fixture
def releases(tmp_path: Path) -> tuple[Release, Release]:
    old = FolderFiles(write_folder(tmp_path / "old", OLD))
    return Release(old), Release(WheelFiles(write_wheel(tmp_path / "new.whl", NEW)))


def change_of(releases: tuple[Release, Release], qualname: str) -> Change:
    (change,) = compare([symbol(qualname)], *releases)
    return change


@pytest.mark.parametrize(
    ("qualname", "state", "place"),
    [
        pytest.param("Cache.stays", "same", "sglang/srt/cache.py:6", id="on another line"),
        pytest.param("Cache.grows", "changed", "sglang/srt/cache.py:9", id="another text"),
        pytest.param("Cache.goes", "gone", None, id="nowhere"),
        pytest.param("Cache.leaves", "moved", "sglang/srt/store/tree.py:3", id="the same text in another class"),
        pytest.param("Cache.changes_class", "moved", "sglang/srt/rows.py:16", id="nearly the same text"),
        pytest.param("Cache.is_inherited", "moved", "sglang/srt/rows.py:9", id="of a base of a base"),
        pytest.param("release", "moved", "sglang/srt/rows.py:2", id="imported from where it is now"),
        pytest.param("Node", "moved", "sglang/srt/rows.py:5", id="imported by a relative import"),
        pytest.param("Cache.__init__", "gone", None, id="every class has a constructor"),
    ],
)
def test_what_became_of_a_symbol(
    releases: tuple[Release, Release], qualname: str, state: str, place: str | None
) -> None:
    change = change_of(releases, qualname)
    assert (change.state, change.new and change.new.place) == (state, place)


def test_the_difference_shows_both_texts_and_counts_their_lines(releases: tuple[Release, Release]) -> None:
    change = change_of(releases, "Cache.grows")
    assert change.diff()[-3:] == ["-        return 1", "+        one = 1", "+        return one"]
    assert change.num_lines() == (2, 1)
    assert change_of(releases, "Cache.goes").num_lines() == (0, 2)


def test_rooms_count_by_module_of_sglang_and_by_file_of_ours(releases: tuple[Release, Release]) -> None:
    others = Ours(path="sglang_patches/others.py", line=1, text=None)
    symbols = [symbol("Cache.stays"), symbol("Cache.grows", others), symbol("Cache.goes", others), symbol("Node")]
    changes = compare(symbols, *releases)
    counts = {"same": 1, "changed": 1, "moved": 1, "gone": 1}
    assert [(room.name, room.counts) for room in by_upstream_module(changes)] == [("cache", counts)]
    assert total(changes).counts == counts
    ours = {room.name: room.counts for room in by_our_file(changes)}
    assert ours == {
        "sglang_patches/others.py": {"same": 0, "changed": 1, "moved": 0, "gone": 1},
        "sglang_patches/ours.py": {"same": 1, "changed": 0, "moved": 1, "gone": 0},
    }


@pytest.fixture(scope="module")
def newer_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the installed files of two modules, one of them with a changed method."""
    files = {"sglang/__init__.py": ""}
    for module in ("sglang.srt.lora.lora_manager", "sglang.srt.mem_cache.radix_cache"):
        path = module_path(module)
        assert path is not None
        files[module.replace(".", "/") + ".py"] = path.read_text()
    manager = "sglang/srt/lora/lora_manager.py"
    old_line = "def validate_lora_batch(self, lora_ids: set[Optional[str]]) -> bool:"
    assert files[manager].count(old_line) == 1
    files[manager] = files[manager].replace(old_line, old_line.replace("bool", "object"))
    return write_wheel(tmp_path_factory.mktemp("wheel") / "sglang-9.9.9-py3-none-any.whl", files)


def test_the_table_is_compared_room_by_room(newer_wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(newer_wheel), "--summary"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"SGLang 0.5.17 (installed) and 9.9.9 ({newer_wheel.name})"
    assert lines[2].split()[-6:] == ["symbols", "same", "changed", "moved", "gone", "lines"]
    assert any(line.startswith("mem_cache.radix_cache ") and line.endswith("+0 -0") for line in lines)
    assert lines[-1].startswith(f"{len(watched_symbols())} symbols: ")
    assert ", 1 changed, 0 moved, " in lines[-1]


def test_a_changed_symbol_has_its_override_beside_it(newer_wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(newer_wheel), "--symbol", "LoRAManager.validate_lora_batch"]) == 1
    out = capsys.readouterr().out
    assert "validate_lora_batch: changed, 1 lines added, 1 removed" in out
    assert "--- 0.5.17  sglang/srt/lora/lora_manager.py:" in out
    assert "+def validate_lora_batch(self, lora_ids: set[Optional[str]]) -> object:" in out
    after = out.partition("ours: sglang_patches/")[2]
    assert "validate_lora_batch" in after
    assert "\x1b" not in out, "colour is for terminals"


def test_a_symbol_that_is_the_same_is_shown_when_asked_for(
    newer_wheel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(newer_wheel), "--symbol", "RadixCache.insert"]) == 0
    assert "RadixCache.insert: same" in capsys.readouterr().out


def test_json_has_every_text(newer_wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(newer_wheel), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["old"], data["new"]) == ("0.5.17", "9.9.9")
    known = {row["symbol"]: row for row in data["symbols"]}
    assert set(known) == {symbol.name for symbol in watched_symbols()}
    changed = known["sglang.srt.lora.lora_manager.LoRAManager.validate_lora_batch"]
    assert changed["state"] == "changed"
    assert changed["old"]["text"] != changed["new"]["text"]
    assert changed["ours"]["place"].startswith("sglang_patches/")
    assert sum(row["same"] for row in data["files"]) == data["total"]["same"] > 0


def test_a_release_in_folders_is_found_as_it_lies(tmp_path: Path) -> None:
    unpacked = write_folder(tmp_path / "unpacked", OLD | {"sglang-1.2.dist-info/METADATA": "Version: 1.2\n"})
    checkout = write_folder(tmp_path / "checkout" / "python", OLD | {"sglang/_version.py": 'version = "1.3"'}).parent
    assert [open_files(path).version for path in (unpacked, unpacked / "sglang", checkout)] == ["1.2", "1.2", "1.3"]
    assert open_files(write_folder(tmp_path / "plain", OLD)).version is None


def test_what_is_no_release_is_refused_with_what_to_name(tmp_path: Path) -> None:
    (tmp_path / "text.whl").write_text("no wheel")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as other:
        other.writestr("other/__init__.py", "")
    for name, message in {
        "missing.whl": "does not exist",
        "text.whl": "is not a wheel",
        "other.whl": "is a wheel without the package sglang",
        ".": "holds no package sglang",
    }.items():
        with pytest.raises(ReleaseError, match=message):
            open_files(tmp_path / name)


def test_errors_are_one_line_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(tmp_path / "missing.whl")]) == 2
    assert capsys.readouterr().err.startswith("sglang_patches: ")
    assert main(["diff", str(tmp_path), "--symbol", "RadixCache.inser"]) == 2
    assert capsys.readouterr().err.endswith("no patch knows RadixCache.inser; the nearest name is RadixCache.insert\n")


def test_a_release_of_another_python_is_told(tmp_path: Path) -> None:
    old = Release(FolderFiles(write_folder(tmp_path / "old", OLD)))
    new = Release(FolderFiles(write_folder(tmp_path / "new", OLD | {"sglang/srt/cache.py": "def release(: pass"})))
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(ReleaseError, match=rf"sglang/srt/cache\.py:1 cannot be read by Python {python}"):
        compare([symbol("release")], old, new)
