"""`prefillshare logs` of a deployment on this machine.

Its files are read; where there are several, each line begins with the name of its process.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefillshare.cli.output import paint, say

if TYPE_CHECKING:
    from prefillshare.serving.run.record import DeploymentRecord

LAUNCHER = "launcher"
"""Under this name goes what the launcher of a detached deployment says: restarts, moves, the end."""
_FOLLOW_EVERY_S = 0.3
_COLOURS = ("cyan", "green", "yellow", "red")
_MOST_BYTES = 1 << 22
"""Read at a time: a log may be longer than the memory that this command should take."""


def print_logs(deployment: str | None, worker: str | None, *, follow: bool, tail: int | None) -> None:
    """Print the logs of a deployment, or of one process of it; `tail` lines of each, or all.

    Raises: ConfigError for one that is not there.
    """
    from prefillshare.errors import ConfigError
    from prefillshare.serving.run.local import choose_deployment

    if deployment is None and worker is not None and _is_deployment(worker):
        deployment, worker = worker, None
    records = choose_deployment(deployment, may_be_left_over=True)
    files = log_files(records)
    if worker is not None and worker not in files:
        raise ConfigError(f"{records[0].name} has no {worker!r} here; it has: {', '.join(files) or 'no logs yet'}")
    chosen = files if worker is None else {worker: files[worker]}
    readers = [_Reader.open(name, path, number, tail) for number, (name, path) in enumerate(chosen.items())]
    is_many = len(readers) > 1
    while True:
        # A list: each of them is read in each round.
        printed = [reader.print_more(with_name=is_many) for reader in readers]
        if any(printed):
            continue
        if not follow:
            return
        if not _is_running(records):
            say("the deployment has ended")
            return
        time.sleep(_FOLLOW_EVERY_S)


def _is_deployment(word: str) -> bool:
    """Whether `word` names a deployment and no process: people write `logs NAME` as they write `stop NAME`."""
    from prefillshare.serving.run.record import read_left_over, read_records

    records = [*read_records(), *read_left_over()]
    return word in {record.name for record in records} and word not in log_files(records)


def log_files(records: "Sequence[DeploymentRecord]") -> dict[str, Path]:
    """Return the logs of a deployment by the name of the process."""
    logs = [(LAUNCHER, record.log) for record in records]
    logs += [(process.name, process.log) for record in records for process in record.processes]
    return {name: Path(log) for name, log in logs if log is not None}


def _is_running(records: "Sequence[DeploymentRecord]") -> bool:
    from prefillshare.serving.run.record import boot_of

    return any(boot_of(record.pid) == record.boot for record in records)


@dataclass(slots=True, kw_only=True)
class _Reader:
    name: str
    """Whose log it is."""
    path: Path
    """The file."""
    colour: str
    """Of its name."""
    offset: int = 0
    """How far it was read, in bytes."""

    @classmethod
    def open(cls, name: str, path: Path, number: int, tail: int | None) -> "_Reader":
        offset = 0 if tail is None else _find_tail(path, tail)
        return cls(name=name, path=path, colour=_COLOURS[number % len(_COLOURS)], offset=offset)

    def print_more(self, *, with_name: bool) -> bool:
        """Print the whole lines that came since, and return whether there were any."""
        content = self._read()
        whole = content[: content.rfind(b"\n") + 1] or (content if len(content) == _MOST_BYTES else b"")
        self.offset += len(whole)
        text = whole.decode(errors="replace")
        if with_name:
            start = paint(f"{self.name} | ", self.colour, sys.stdout)
            text = "".join(f"{start}{line}\n" for line in text.splitlines())
        sys.stdout.write(text)
        sys.stdout.flush()
        return bool(whole)

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                if self.path.stat().st_size < self.offset:  # it was too long, and is begun anew
                    self.offset = 0
                file.seek(self.offset)
                return file.read(_MOST_BYTES)
        except OSError:
            return b""


def _find_tail(path: Path, num_lines: int) -> int:
    """Return where the last lines begin, in bytes; of a long file, at most its last part is looked at."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size - _MOST_BYTES)
            file.seek(start)
            lines = file.read(size - start).splitlines(keepends=True)
    except OSError:
        return 0
    return size - sum(map(len, lines[len(lines) - num_lines :] if num_lines < len(lines) else lines))
