"""Interpreters that have imported SGLang and changed nothing of it: one import for all, and a process for each.

Importing SGLang takes seconds; a process that is forked after it has its modules as they were.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = """
import gc, importlib, json, os, sys, traceback
gc.disable()
from sglang_patches.forkserver import ENGINE_MODULES
for name in ENGINE_MODULES:
    importlib.import_module(name)
gc.freeze()

def run(code):
    status = 1
    try:
        exec(compile(code, "<fresh>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        print(end, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

replies = os.fdopen(int(sys.argv[1]), "w", buffering=1)
for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        replies.close()
        for number, path in ((1, request["stdout"]), (2, request["stderr"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        run(request["code"])
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=replies)
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended."""

    returncode: int
    stdout: str
    stderr: str


class Fresh:
    """Runs programs, each in a process that has imported SGLang and nothing of ours that changes it."""

    def __init__(self, process: subprocess.Popen[str], replies: int) -> None:
        self._process = process
        self._replies = os.fdopen(replies)

    def run(self, code: str) -> Done:
        """Run a program to its end."""
        assert self._process.stdin is not None
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder) / name for name in ("stdout", "stderr")}
            request = {"code": code} | {name: str(path) for name, path in paths.items()}
            print(json.dumps(request), file=self._process.stdin, flush=True)
            reply = self._replies.readline()
            assert reply, f"SGLang was not imported: exit code {self._process.wait()}"
            return Done(int(reply), *(path.read_text(errors="replace") for path in paths.values()))

    def close(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()
        self._replies.close()


@contextlib.contextmanager
def fresh_interpreters() -> Iterator[Fresh]:
    """Start one that imports SGLang and waits for programs."""
    ours, theirs = os.pipe()
    command = [sys.executable, "-W", "ignore", "-c", _PROGRAM, str(theirs)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, pass_fds=[theirs])
    os.close(theirs)
    fresh = Fresh(process, ours)
    try:
        yield fresh
    finally:
        fresh.close()
