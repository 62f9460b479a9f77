"""The Python files of a package ``sglang`` and its version: installed, in a wheel, or in an unpacked folder."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path
from typing import Protocol

from prefillshare.errors import PrefillShareError
from sglang_patches.fingerprint import NOT_INSTALLED, installed_sglang

PACKAGE = "sglang"
SOURCE_FOLDER = "python"
"""Where a checkout of SGLang's repository keeps the package."""


class ReleaseError(PrefillShareError):
    """What was named is no SGLang whose source can be read."""


class SourceFiles(Protocol):
    """Where a release's text comes from; files are named from the package on (``sglang/srt/server_args.py``)."""

    @property
    def version(self) -> str | None:
        """None where nothing beside the source says it."""

    def names(self) -> Iterable[str]:
        """Every Python file of the package."""

    def read(self, name: str) -> str | None:
        """Text of one file; None if it is not there."""


class FolderFiles:
    """A package in a folder."""

    def __init__(self, parent: Path, version: str | None = None) -> None:
        self._parent = parent
        self.version = version or self._version_beside()

    def names(self) -> Iterable[str]:
        """Every Python file of the package."""
        files = (self._parent / PACKAGE).rglob("*.py")
        return sorted(file.relative_to(self._parent).as_posix() for file in files)

    def read(self, name: str) -> str | None:
        """Text of one file; None if it is not there."""
        file = self._parent / name
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def _version_beside(self) -> str | None:
        for metadata in self._parent.glob(f"{PACKAGE}-*.dist-info/METADATA"):
            return _version_of(metadata.read_text(encoding="utf-8"))
        # A checkout in which the package was built has the version in a file; one that was only cloned has none.
        text = self.read(f"{PACKAGE}/_version.py") or ""
        found = re.search(r"""^(?:__version__|version)\b.*?=\s*['"]([^'"]+)""", text, re.MULTILINE)
        return found.group(1) if found else None


class WheelFiles:
    """A package in a wheel, which is not unpacked."""

    def __init__(self, wheel: Path) -> None:
        self._zip = zipfile.ZipFile(wheel)
        self._names = frozenset(self._zip.namelist())
        self.version = self._version_inside()

    def names(self) -> Iterable[str]:
        """Every Python file of the package."""
        return sorted(name for name in self._names if name.startswith(f"{PACKAGE}/") and name.endswith(".py"))

    def read(self, name: str) -> str | None:
        """Text of one file; None if it is not there."""
        return self._zip.read(name).decode("utf-8") if name in self._names else None

    def _version_inside(self) -> str | None:
        metadata = (name for name in self._names if re.fullmatch(rf"{PACKAGE}-[^/]+\.dist-info/METADATA", name))
        return next((_version_of(self._zip.read(name).decode("utf-8")) for name in metadata), None)


def installed_files() -> SourceFiles:
    """The SGLang of this environment.

    Raises: ReleaseError when there is none.
    """
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise ReleaseError(NOT_INSTALLED)
    return FolderFiles(Path(places[0]).parent, installed_sglang())


def open_files(path: Path) -> SourceFiles:
    """A wheel, an unpacked wheel, or a checkout of SGLang's repository.

    Raises: ReleaseError when ``path`` is none of them.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise ReleaseError(f"{path} does not exist: name a wheel of SGLang, or a folder that holds the package sglang")
    if not zipfile.is_zipfile(path):
        raise ReleaseError(f"{path} is not a wheel: `pip download sglang==VERSION --no-deps` fetches one")
    files = WheelFiles(path)
    if files.read(f"{PACKAGE}/__init__.py") is None:
        raise ReleaseError(f"{path} is a wheel without the package sglang: name a wheel of SGLang")
    return files


def _open_folder(path: Path) -> SourceFiles:
    parents = [path, path / SOURCE_FOLDER]
    if path.resolve().name == PACKAGE:
        parents.append(path.resolve().parent)
    for parent in parents:
        if (parent / PACKAGE / "__init__.py").is_file():
            return FolderFiles(parent)
    raise ReleaseError(f"{path} holds no package sglang: name a wheel, an unpacked wheel or a checkout of SGLang")


def _version_of(metadata: str) -> str | None:
    return HeaderParser().parsestr(metadata)["Version"]
