"""The engine's processes: started in a session of their own, logged to a file, and never left behind.

Three things can end them: `stop` (drains first), `kill`, and the death of this process, however sudden: a guardian
shell holds one end of a pipe and kills the engine's process group when the other end closes.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from prefillshare.contract import PEER_SECRET_VARIABLE, STORE_FOLDER_START
from prefillshare.errors import ConfigError, LaunchError, PrefillShareError
from prefillshare.open_files import open_log
from prefillshare.places import new_private_folder
from prefillshare.serving.machine.environment import process_variables
from prefillshare.serving.machine.logs import bound_log
from prefillshare.serving.plan.command import ProcessCommand
from prefillshare.serving.run.forks import ForkedEngine, ForkServer

_GUARDIAN = rf"""
read -r _ && exit
segments=$(for process in /proc/[0-9]*; do
    read -r status <"$process/stat" || continue
    set -- ${{status##*) }}
    test "$3" = "$0" && sed -n '\|/{STORE_FOLDER_START}|d; s|.* \(/dev/shm/[^ ]*\)$|\1|p' "$process/maps"
done 2>/dev/null)
kill -s KILL -- "-$0" 2>/dev/null
rm -rf -- "$@" $segments
"""
"""Its words: the group to kill, then folders to remove. Segments of shared memory are looked up before the end, as
`EngineProcess.kill` does: what a process had mapped is not known any more when it is gone. The store of a deployment
is no engine's own, and stays."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 0.1
_KILL_WAIT_S = 5.0


@dataclass(slots=True, kw_only=True)
class EngineProcess:
    """A started engine; make one with `start_engine`."""

    main: "subprocess.Popen[bytes] | ForkedEngine"
    """The engine's first process, leader of the group that holds all of them."""
    guardian: "subprocess.Popen[bytes]"
    """Shell that kills the group when this process dies."""
    log_path: Path
    """File that holds everything the engine says."""
    scratch: Path
    """Directory for the engine's sockets, removed at the end."""
    log_start: int = 0
    """Where in the log it begins, in bytes; before that stand the words of processes that it replaces."""
    lost_log: str | None = None
    """Why nothing of what it says is kept, where that is so."""
    started_at: float = field(default_factory=time.monotonic)
    """Monotonic time of the start in seconds."""

    @property
    def pid(self) -> int:
        """Process id of the engine's first process, which is also the id of its group."""
        return self.main.pid

    def bound_log(self) -> None:
        """Begin its log anew when that is too long."""
        if bound_log(self.log_path):
            self.log_start = 0

    def exit_code(self) -> int | None:
        """Return the exit code of the engine's first process, or None while it runs."""
        return self.main.poll()

    def stop(self, drain_s: float = 8.0, num_running: Callable[[], int | None] = lambda: 0) -> None:
        """End the engine: let running requests finish for at most `drain_s` seconds, then end every process.

        `num_running` tells how many there are, None when that is not known now: then it is asked again.

        Effects: afterwards no process of the engine runs and its port is free.
        """
        if self.exit_code() is None:
            self.main.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + drain_s
            while time.monotonic() < deadline and self.exit_code() is None and num_running() != 0:
                time.sleep(_POLL_S)
        self.kill()

    def kill(self) -> None:
        """End every process of the engine at once."""
        # Asked before the end: what a process had mapped is not known any more when it is gone.
        deadline, shared_memory = time.monotonic() + _KILL_WAIT_S, _shared_memory_of(group_members(self.pid))
        _kill_group(self.main, deadline)
        # The guardian goes after the group, or nobody would end it if this process died in between.
        self.guardian.kill()
        self.guardian.wait()
        if self.guardian.stdin:
            self.guardian.stdin.close()
        for segment in shared_memory:
            segment.unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)


def start_engine(
    command: ProcessCommand,
    log_path: Path,
    forks: ForkServer | None = None,
    *,
    is_restart: bool = False,
    private: Sequence[Path] = (),
    inherited: Sequence[int] = (),
) -> EngineProcess:
    """Start `command` with its output going to `log_path`; `forks` spares it the import of SGLang, on a CPU.

    What stands in the log is kept for `is_restart`: it tells why the process before this one ended. Such a process is
    started although its log cannot be written (a disk may be full), and then nothing of what it says is kept.
    `private` are directories of the caller's that go, too, when it dies without having removed them, and `inherited`
    descriptors of the caller's that the program gets under the same numbers.
    Raises: LaunchError when the log cannot be written, the program does not exist, or there is no room for its files or
    for one process more.
    """
    forks = forks if command.can_be_forked else None
    try:
        scratch = new_private_folder()
    except ConfigError as error:  # a full disk, say: it may be another time
        raise LaunchError(str(error)) from None
    process = None
    try:
        with _signals_held():
            process = _start_guarded(command, log_path, scratch, forks, is_restart, private, inherited)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise LaunchError(f"{command.argv[0]} could not be started ({error}): check the installation") from None
    except PrefillShareError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise LaunchError(str(error)) from error.__cause__
    except BaseException:  # a signal that came meanwhile: the caller never hears of the process
        if process is not None:
            process.kill()
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return process


def _start_guarded(
    command: ProcessCommand,
    log_path: Path,
    scratch: Path,
    forks: ForkServer | None,
    is_restart: bool,
    private: Sequence[Path],
    inherited: Sequence[int],
) -> EngineProcess:
    """Start a process and its guardian, or neither.

    Raises: OSError, PrefillShareError.
    """
    lost_log, kept = None, log_path
    try:
        log, log_start = _begin_log(log_path, command, is_new=forks is None and not is_restart)
    except OSError as error:
        lost_log, kept = f"its log {log_path} cannot be written ({error.strerror})", Path(os.devnull)
        if not is_restart:
            raise LaunchError(f"{lost_log}: free some space there, or name another file with --log-file") from error
        log, log_start = open_log(kept), log_path.stat().st_size if log_path.exists() else 0
    with log:
        main = _start(command, scratch, log, inherited) if forks is None else _fork(command, scratch, kept, forks)
    try:
        guardian = _guard(main.pid, [scratch, *private])
    except BaseException:  # no process more, or a second signal: nobody would ever end the one that runs
        _kill_group(main, time.monotonic() + _KILL_WAIT_S)
        raise
    return EngineProcess(
        main=main, guardian=guardian, log_path=log_path, scratch=scratch, log_start=log_start, lost_log=lost_log
    )


def _begin_log(path: Path, command: ProcessCommand, *, is_new: bool) -> tuple[BinaryIO, int]:
    """Write the command into a log, before anything that the process says; return the log, and where that begins.

    Raises: OSError.
    """
    log, left = open_log(path, is_new=is_new), os.fsencode(f"{command.as_shell()}\n")
    try:
        log_start = os.fstat(log.fileno()).st_size
        # Not through the buffer: what could not be written would be tried again when that is closed.
        while left:
            left = left[os.write(log.fileno(), left) :]
    except BaseException:
        log.close()
        raise
    return log, log_start


def _guard(group: int, folders: Sequence[Path]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["/bin/sh", "-c", _GUARDIAN, str(group), *map(str, folders)],
        stdin=subprocess.PIPE,
        # Whoever reads what the launcher says reads its end when that ends, and not when the guardian does.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Let a signal that is to end this process wait: between a process and its guardian, it would leave that behind. A
    second one does not wait: what is started may stand still.
    """
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no other one hears them
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {number: handler for number, handler in handlers.items() if callable(handler)}

    def hold(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            before[number](number, frame)

    try:
        for number in before:
            signal.signal(number, hold)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _kill_group(main: "subprocess.Popen[bytes] | ForkedEngine", deadline: float) -> None:
    # Again and again: one that forks while the group is killed leaves a child behind.
    while group_members(main.pid) and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(main.pid, signal.SIGKILL)
        main.poll()
        time.sleep(_POLL_S / 2)
    with contextlib.suppress(subprocess.TimeoutExpired):
        main.wait(timeout=_KILL_WAIT_S)


def _start(
    command: ProcessCommand, scratch: Path, log: BinaryIO, inherited: Sequence[int]
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*command.argv, *_key_file(command, scratch)],
        env={**os.environ, **_variables(command, scratch)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=inherited,
    )


def _fork(command: ProcessCommand, scratch: Path, log_path: Path, forks: ForkServer) -> ForkedEngine:
    arguments = [*command.arguments, *_key_file(command, scratch)]
    return forks.start(arguments, _variables(command, scratch), log_path)


def _variables(command: ProcessCommand, scratch: Path) -> dict[str, str]:
    variables = {**process_variables(scratch, command.argv), **command.environment}
    if command.peer_secret:
        file = scratch / "peers"
        _write_private(file, f"{command.peer_secret}\n")
        variables[PEER_SECRET_VARIABLE] = str(file)
    return variables


def _key_file(command: ProcessCommand, scratch: Path) -> list[str]:
    """Arguments that hand the keys over in a file that only this user can read."""
    keys = {"api-key": command.api_key, "admin-api-key": command.admin_key}
    quoted = {name: key.replace("'", "''") for name, key in keys.items() if key}
    if not quoted:
        return []
    file = scratch / "key.yaml"
    _write_private(file, "".join(f"{name}: '{key}'\n" for name, key in quoted.items()))
    return ["--config", str(file)]


def _write_private(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)


def group_members(group: int) -> list[int]:
    """Return the live processes of a process group; those that only wait to be reaped do not count."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in parentheses may hold spaces; state, parent and group follow it.
            state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and not _has_ended(entry, state):
                members.append(int(entry.name))
    return members


def _has_ended(process: Path, state: str) -> bool:
    """The state is that of its first thread: while others still end, files are open and locks are held."""
    return state in "ZX" and len(list((process / "task").iterdir())) <= 1


def _shared_memory_of(members: list[int]) -> set[Path]:
    """Return the segments that processes have mapped and that are their own: killed, they cannot remove them."""
    segments = set()
    for member in members:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/maps").read_text().splitlines():
                path = line.partition("/dev/shm/")
                is_gone, is_store = path[2].endswith(" (deleted)"), path[2].startswith(STORE_FOLDER_START)
                if path[2] and not is_gone and not is_store:
                    segments.add(Path("/dev/shm") / path[2])
    return segments
