"""What runs where: one small file per running deployment, read by `prefillshare ps`.

The launcher writes it and removes it in the end. A file whose launcher is gone is left over from a crash:
`prefillshare ps` says so, `prefillshare stop` removes it with whatever still runs of it. Several machines may have one
home: each looks at the files of its own launchers, for of other machines' processes it knows nothing.
"""

import contextlib
import functools
import glob
import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from prefillshare.errors import ConfigError
from prefillshare.observe.document import Role
from prefillshare.places import state_directory

ProcessState = Literal["starting", "running", "restarting", "failed", "ended"]
DeploymentState = Literal["starting", "serving"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """One process of a deployment."""

    name: str
    """What people call it, such as decode-math-0."""
    role: Role
    """What it does."""
    module: str | None
    """Decode module that it holds, if it holds exactly one."""
    pid: int | None
    """Process id; None while it does not run."""
    url: str
    """Address of its HTTP server."""
    state: ProcessState
    """How it stands."""
    num_restarts: int = 0
    """How often it was started again."""
    log: str | None = None
    """File that holds what it says."""
    boot: str = ""
    """Which start of the machine and of the process the pid belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRecord:
    """One running deployment."""

    name: str
    """Name of the deployment."""
    topology: str
    """colocated or disaggregated."""
    url: str
    """Address for clients."""
    pid: int
    """Process id of its launcher."""
    boot: str
    """Which start of the machine and of the launcher the pid belongs to."""
    models: tuple[str, ...]
    """Names that clients may put into "model"."""
    processes: tuple[ProcessRecord, ...] = ()
    """Its processes."""
    state: DeploymentState = "serving"
    """How it stands."""
    log: str | None = None
    """File that holds what its launcher says; None where that is at a terminal."""
    overrides: tuple[str, ...] = ()
    """What `--set` changed of the deployment file."""
    updated: float = field(default_factory=time.time)
    """When this was written, in seconds since 1970."""


def write_record(record: DeploymentRecord) -> bool:
    """Write the record of this launcher's deployment, and return whether that went well: if a state directory cannot be
    written, the deployment serves all the same."""
    file = _file_of(record.pid)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(record)), encoding="utf-8")
        partial.replace(file)  # a reader sees the file before or the file after, never half of one
        return True
    return False


def remove_record(pid: int) -> None:
    """Forget the deployment of launcher `pid`."""
    for file in (_file_of(pid), _wish_of(pid), _key_file_of(pid)):
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def write_admin_key(pid: int, key: str) -> None:
    """Keep the admin key of launcher `pid` for this user's commands, in a file that nobody else can read."""
    file = _key_file_of(pid)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            stream.write(key)


def read_admin_key(url: str) -> str | None:
    """Return the admin key of this user's deployment at `url`; None when none runs here, or it has none."""
    with contextlib.suppress(OSError, ConfigError):
        for record in read_records():
            if record.url == url and (file := _key_file_of(record.pid)).is_file():
                return file.read_text(encoding="utf-8") or None
    return None


def read_records() -> list[DeploymentRecord]:
    """Return all running deployments of this user, the oldest launcher first."""
    return [record for record in _read_all() if boot_of(record.pid) == record.boot]


def read_left_over() -> list[DeploymentRecord]:
    """Return the deployments whose launcher is gone without having ended them."""
    return [record for record in _read_all() if boot_of(record.pid) != record.boot]


def ask_to_stop(record: DeploymentRecord, drain_s: float) -> None:
    """Tell a launcher to end, and how long running calls may take until then.

    Raises: OSError when the wish cannot be written, or its process is not this user's.
    """
    _wish_of(record.pid).write_text(str(drain_s), encoding="ascii")
    os.kill(record.pid, signal.SIGTERM)


def forget_wish() -> None:
    """Forget what an earlier launcher with the number of this one was asked, and had no time to hear."""
    with contextlib.suppress(OSError, ConfigError):
        _wish_of(os.getpid()).unlink(missing_ok=True)


def asked_drain_s() -> float | None:
    """Return how long calls may take by whoever asked this launcher to stop; None when nobody said."""
    try:
        return float(_wish_of(os.getpid()).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def boot_of(pid: int) -> str:
    """Return text that no other process with the same pid has: the process's start time; empty when it does not run."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if words[0] in "ZX" else words[19]  # one that ended may wait for long to be reaped
    except (OSError, IndexError):
        return ""


def record_of(
    name: str,
    topology: str,
    url: str,
    models: Sequence[str],
    processes: Sequence[ProcessRecord],
    *,
    state: DeploymentState = "serving",
    log: Path | None = None,
    overrides: Sequence[str] = (),
) -> DeploymentRecord:
    """Return the record of a deployment that this process runs."""
    pid = os.getpid()
    return DeploymentRecord(
        name=name,
        topology=topology,
        url=url,
        pid=pid,
        boot=boot_of(pid),
        models=tuple(models),
        processes=tuple(replace(process, boot=boot_of(process.pid) if process.pid else "") for process in processes),
        state=state,
        log=None if log is None else str(log),
        overrides=tuple(overrides),
    )


def _read_all() -> list[DeploymentRecord]:
    records = []
    for file in sorted(_directory().glob(f"*{glob.escape(_machine())}.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            records.append(_parse_record(json.loads(file.read_text(encoding="utf-8"))))
    return sorted(records, key=lambda record: record.boot)


def _parse_record(content: dict[str, Any]) -> DeploymentRecord:
    processes = tuple(ProcessRecord(**process) for process in content.pop("processes"))
    models, overrides = tuple(content.pop("models")), tuple(content.pop("overrides", ()))
    return DeploymentRecord(**content, models=models, overrides=overrides, processes=processes)


def _directory() -> Path:
    return state_directory() / "run"


@functools.cache
def _machine() -> str:
    """The end of the names of this machine's files."""
    return f"@{os.uname().nodename}"


def _file_of(pid: int) -> Path:
    return _directory() / f"{pid}{_machine()}.json"


def _key_file_of(pid: int) -> Path:
    return _directory() / f"{pid}{_machine()}.key"


def _wish_of(pid: int) -> Path:
    return _directory() / f"{pid}{_machine()}.stop"
