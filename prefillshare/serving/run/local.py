"""The deployments of this user on this machine: which one is meant, how it is stopped from outside, what a crash left.

A launcher that is asked to stop lets calls end and ends its processes itself. One that was killed cannot: guardians end
its engines within moments, and what is still there after that is ended here.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from prefillshare.contract import STORE_FOLDER_START
from prefillshare.errors import ConfigError, LaunchError
from prefillshare.serving.machine.leftovers import sweep_leftovers
from prefillshare.serving.run.process import group_members
from prefillshare.serving.run.record import (
    DeploymentRecord,
    ask_to_stop,
    boot_of,
    read_left_over,
    read_records,
    remove_record,
)

_END_S = 30.0
"""What a launcher may take beside the time for calls: engines end within some seconds on a busy machine."""
_KEEP_S = 3600.0
"""What it may take after that for a store whose pages go from memory to disk: many GiB, as fast as the disk is."""
_POLL_S = 0.1


def choose_deployment(name: str | None, *, may_be_left_over: bool = False) -> list[DeploymentRecord]:
    """Return the records of the deployment that `name` or the pid of its launcher means, or of the only one.

    Several, where it was put together of a router and workers. `may_be_left_over` lets one that was killed count.
    Raises: ConfigError with the names that there are.
    """
    records = [*read_records(), *(read_left_over() if may_be_left_over else [])]
    wanted = [record for record in records if name is None or name in (record.name, str(record.pid))]
    groups: dict[tuple[str, str], list[DeploymentRecord]] = {}
    for record in wanted:
        groups.setdefault((record.name, record.url), []).append(record)
    if len(groups) == 1:
        return next(iter(groups.values()))
    if groups:
        listed = "; ".join(f"{record.pid} ({record.name} at {record.url})" for [record, *_] in groups.values())
        raise ConfigError(
            f"{len(groups)} deployments are meant: say which one, by its name (`--deployment NAME`, `stop NAME`) or by "
            f"the pid of its launcher: {listed}"
        )
    if records:
        names = ", ".join(dict.fromkeys(record.name for record in records))
        raise ConfigError(f"no deployment {name!r} runs here; what runs: {names}")
    raise ConfigError("no deployment of yours runs here, or name the address of a cluster with --cluster")


def stop_deployment(records: Sequence[DeploymentRecord], drain_s: float, say: Callable[[str], None]) -> None:
    """End a deployment, giving its calls `drain_s` seconds; a router before its workers, which its calls need.

    Raises: LaunchError when a launcher cannot be ended.
    """
    for record in sorted(records, key=lambda record: all(process.role != "router" for process in record.processes)):
        if boot_of(record.pid) == record.boot:
            _stop(record, drain_s, say)
        else:
            say(f"its launcher, pid {record.pid}, was killed")
            clear_left_over(record, say)


def find_remains(record: DeploymentRecord) -> dict[str, list[int]]:
    """Return what still runs of a deployment whose launcher is gone: processes by the name of their group."""
    found = {}
    for process in record.processes:
        # The leader's pid stays taken while its group lives; with another start time it belongs to somebody else.
        if process.pid is not None and boot_of(process.pid) in ("", process.boot):
            found[process.name] = group_members(process.pid)
    return {name: members for name, members in found.items() if members}


def clear_left_over(record: DeploymentRecord, say: Callable[[str], None]) -> None:
    """End what still runs of a deployment whose launcher is gone, and forget it."""
    deadline, remains = time.monotonic() + _END_S, find_remains(record)
    if remains:
        say(f"ending what is left of it: {', '.join(remains)}")
    while remains and time.monotonic() < deadline:
        for member in (member for members in remains.values() for member in members):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        time.sleep(_POLL_S)
        remains = find_remains(record)
    if remains:
        raise LaunchError(f"{', '.join(remains)} cannot be ended: look at the processes {remains}")
    sweep_leftovers()
    remove_record(record.pid)


def _stop(record: DeploymentRecord, drain_s: float, say: Callable[[str], None]) -> None:
    say(f"stopping {record.name} (launcher pid {record.pid}): its calls get up to {drain_s:g} s")
    try:
        ask_to_stop(record, drain_s)
    except ProcessLookupError:
        pass  # it ended meanwhile
    except OSError as error:
        raise LaunchError(f"launcher {record.pid} cannot be asked to stop ({error.strerror}): end it by hand") from None
    if _has_ended(record, drain_s + _END_S) or (_only_keeps_store(record, say) and _has_ended(record, _KEEP_S)):
        remove_record(record.pid)
        return
    say("it has not ended in time and is killed")
    with contextlib.suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGKILL)
    _has_ended(record, _END_S)
    clear_left_over(record, say)


def _only_keeps_store(record: DeploymentRecord, say: Callable[[str], None]) -> bool:
    """Whether a launcher that was asked to stop has ended its processes: its store is what it is busy with."""
    now = next((found for found in read_records() if (found.pid, found.boot) == (record.pid, record.boot)), record)
    if not now.processes or find_remains(now) or not _has_store(record.pid):
        return False
    say("its processes have ended, and its store is still written to disk: waiting for that")
    return True


def _has_store(pid: int) -> bool:
    """Whether a process has the memory of a store, as one that writes it to disk does."""
    try:
        return f"/{STORE_FOLDER_START}" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _has_ended(record: DeploymentRecord, timeout_s: float) -> bool:
    """Wait for the end of a launcher, and return whether it came."""
    deadline = time.monotonic() + timeout_s
    while boot_of(record.pid) == record.boot:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
