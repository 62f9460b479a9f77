"""The tenants' file: read, written, and changed without losing what its owner has written around it."""

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.config.tables import build
from prefillshare.config.tenants import TenantFile
from prefillshare.config.toml import NotTomlError, parse_toml
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
        with open(path, "rb", opener=_open_at_once) as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"the tenants' file {path} is no file: {_HINT}, or correct file under [tenants]")
            problem = judge_private(found)
            table = {} if problem else parse_toml(stream.read().decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no tenants' file {path}: {_HINT}, or correct file under [tenants]") from None
    except OSError as error:
        raise ConfigError(f"the tenants' file {path} cannot be read ({error.strerror}): {_HINT}") from None
    except (NotTomlError, UnicodeDecodeError) as error:
        raise ConfigError(f"the tenants' file {path} is not valid TOML: {error}") from None
    if problem:
        raise ConfigError(f"the tenants' file {path} {problem}: chown it to you and chmod 600 {path}")
    try:
        return _build(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _open_at_once(path: str, flags: int) -> int:
    """Open a pipe, too, without waiting for its other end."""
    return os.open(path, flags | os.O_NONBLOCK)


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
    """Time of the last change, of content or of anything else; nobody can set it, as the time of writing can be."""
    num_bytes: int
    """Its size."""
    mode: int
    """Who may use it."""
    owner: int
    """Whose it is."""


def look_at(path: Path) -> FileState | None:
    """Return the state of the file; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return FileState(
        inode=found.st_ino,
        changed_ns=found.st_ctime_ns,
        num_bytes=found.st_size,
        mode=found.st_mode,
        owner=found.st_uid,
    )


def add_key(path: Path, name: str) -> str:
    """Give the tenant `name` a new key beside those that it has, make tenant and file where there are none; return it.

    Raises: ConfigError.
    """
    import tomlkit

    key = make_key()
    with _changing(path) as document:
        table = _find(document, name)
        if table is None:
            table = tomlkit.table()
            table["name"], table["keys"], table["salt"] = name, [], make_salt()
            if not document.get("tenant"):
                document["tenant"] = tomlkit.aot()  # in place of a `tenant = []`
            elif not isinstance(document["tenant"], tomlkit.items.AoT):
                raise ConfigError(
                    f"{path} has its tenants in one list: write each as a [[tenant]] table, then add others"
                )
            document["tenant"].append(table)
        table.setdefault("keys", tomlkit.array()).append(hash_key(key))
    return key


def remove(path: Path, name: str, key: str | None = None) -> None:
    """Take a tenant out of the file, or only the one of its keys whose hash begins with `key`.

    Raises: ConfigError.
    """
    with _changing(path) as document:
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


def _remove_key(table: Any, name: str, key: str) -> None:
    keys = table.get("keys", ())
    found = [place for place, known in enumerate(keys) if known.removeprefix("sha256:").startswith(key)]
    if len(found) != 1:
        what = "no key" if not found else f"{len(found)} keys"
        raise ConfigError(f"tenant {name!r} has {what} whose hash begins with {key!r}: `prefillshare tenants ls`")
    del keys[found[0]]


@contextlib.contextmanager
def _changing(path: Path) -> Iterator["TOMLDocument"]:
    """Open the file for a change, which is written when the context ends without an error; one change at a time.

    Raises: ConfigError.
    """
    path = path.resolve()  # what a link leads to is replaced, not the link
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): name another place with --file") from None
    try:
        # Of the folder, since the file becomes another one: two changes at once would both begin with the same file.
        fcntl.flock(folder, fcntl.LOCK_EX)
        document = _open(path)
        yield document
        _write(path, document)
    finally:
        os.close(folder)


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
    _build(parse_toml(text))
    try:
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): name another place with --file") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, _MODE)
            _keep_owner(path, descriptor)
            stream.write(text)
            stream.flush()
            # After a loss of power it must not be empty, which is a good file without tenants.
            os.fsync(descriptor)
        Path(partial).replace(path)
    except OSError as error:
        Path(partial).unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written ({error.strerror}) and is as before: make room there") from None


def _keep_owner(path: Path, descriptor: int) -> None:
    """Let a file that root writes stay that of whoever serves by it."""
    found = look_at(path)
    if found is not None and found.owner != os.geteuid():
        with contextlib.suppress(OSError):
            os.fchown(descriptor, found.owner, -1)
