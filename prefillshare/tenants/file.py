"""The tenants' file: read, written, and changed without losing what its owner has written around it."""

import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.config.tables import build
from prefillshare.config.tenants import TenantFile
from prefillshare.errors import ConfigError
from prefillshare.private_files import judge_private
from prefillshare.tenants.keys import hash_key, make_key, make_salt

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_MODE = 0o600
_HINT = "make it with `prefillshare tenants new NAME`"


def read_tenants(path: Path) -> TenantFile:
    """Return what the file holds.

    Raises: ConfigError, also when others may read the file.
    """
    try:
        with path.open("rb") as stream:
            problem = judge_private(os.fstat(stream.fileno()))
            table = tomllib.load(stream)
    except FileNotFoundError:
        raise ConfigError(f"there is no tenants' file {path}: {_HINT}, or correct file under [tenants]") from None
    except OSError as error:
        raise ConfigError(f"the tenants' file {path} cannot be read ({error.strerror}): {_HINT}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the tenants' file {path} is not valid TOML: {error}") from None
    if problem:
        raise ConfigError(f"the tenants' file {path} {problem}: chown it to you and chmod 600 {path}")
    try:
        return _build(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _build(table: Mapping[str, Any]) -> TenantFile:
    """Raises: ConfigError."""
    for tenant in tenants if isinstance(tenants := table.get("tenant"), list) else ():
        keys = tenant.get("keys", []) if isinstance(tenant, Mapping) else []
        # Said here, without the value: somebody may have written a key there.
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ConfigError('keys of a tenant is not a list of texts: write keys = ["sha256:..."]')
    return build(TenantFile, table, "the file")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """By which a change of a file is seen."""

    inode: int
    """Another one when the file was replaced."""
    changed_ns: int
    """Time of the last change."""
    num_bytes: int
    """Its size."""
    mode: int
    """Who may use it."""


def look_at(path: Path) -> FileState | None:
    """Return the state of the file; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return FileState(inode=found.st_ino, changed_ns=found.st_mtime_ns, num_bytes=found.st_size, mode=found.st_mode)


def add_key(path: Path, name: str) -> str:
    """Give the tenant `name` a new key beside those that it has, make tenant and file where there are none; return it.

    Raises: ConfigError.
    """
    import tomlkit

    document, key = _open(path), make_key()
    table = _find(document, name)
    if table is None:
        table = tomlkit.table()
        table["name"], table["keys"], table["salt"] = name, [], make_salt()
        document.setdefault("tenant", tomlkit.aot()).append(table)
    table.setdefault("keys", tomlkit.array()).append(hash_key(key))
    _write(path, document)
    return key


def remove(path: Path, name: str, key: str | None = None) -> None:
    """Take a tenant out of the file, or only the one of its keys whose hash begins with `key`.

    Raises: ConfigError.
    """
    document = _open(path)
    table = _find(document, name)
    if table is None:
        known = ", ".join(str(tenant["name"]) for tenant in document.get("tenant", ())) or "none"
        raise ConfigError(f"there is no tenant {name!r} in {path}; there are: {known}")
    if key is None:
        tenants = document["tenant"]
        del tenants[next(place for place, tenant in enumerate(tenants) if tenant["name"] == name)]
        if not tenants:
            del document["tenant"]  # tables that are appended to an empty list would be written in one line
    else:
        _remove_key(table, name, key)
    _write(path, document)


def _remove_key(table: Any, name: str, key: str) -> None:
    keys = table.get("keys", ())
    found = [place for place, known in enumerate(keys) if known.removeprefix("sha256:").startswith(key)]
    if len(found) != 1:
        what = "no key" if not found else f"{len(found)} keys"
        raise ConfigError(f"tenant {name!r} has {what} whose hash begins with {key!r}: `prefillshare tenants ls`")
    del keys[found[0]]


def _open(path: Path) -> "TOMLDocument":
    """Return the file for a change; an empty one where there is none."""
    import tomlkit

    if look_at(path) is None:
        return tomlkit.document()
    read_tenants(path)  # what cannot be used is not changed
    return tomlkit.parse(path.read_text(encoding="utf-8"))


def _find(document: "TOMLDocument", name: str) -> Any:
    return next((tenant for tenant in document.get("tenant", ()) if tenant["name"] == name), None)


def _write(path: Path, document: "TOMLDocument") -> None:
    """Replace the file by what can be used; whoever reads it meanwhile gets the one before or the one after."""
    text = document.as_string()
    _build(tomllib.loads(text))
    try:
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): name another place with --file") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(descriptor, _MODE)
        stream.write(text)
    Path(partial).replace(path)
