"""Imports the engine once and forks a process per engine from it.

Run by the launcher: ``python -m sglang_patches.forkserver DESCRIPTOR``, where the
descriptor is one end of a Unix socket. Each line is one request in JSON, each answer
one line:

    {"do": "start", "argv": [...], "environment": {...}, "without": [...], "log": "/path"}  -> {"pid": 17}
    {"do": "exit_code", "pid": 17}                                 -> {"exit_code": 0}

``exit_code`` is null while the process runs, and minus the signal that ended it. When
the socket closes, the server ends; its engines are stopped by whoever started them.
Only for machines without an accelerator: see :mod:`sglang_patches.cpu.start_method`.

The engine's import takes seconds of one core and SGLang does it in three processes per
engine. Forked processes share the imported code's memory, too. Files of models are
imported when an engine needs them: :mod:`sglang_patches.model_files`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import setproctitle

from prefillshare.contract import FORKED_VARIABLE
from prefillshare.open_files import open_log
from sglang_patches.model_files import import_classes_of, import_registry

ENGINE_MODULES = (
    "sglang.launch_server",
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
)
"""What an engine's three processes import."""
NOT_NEEDED = ("is_sklearn_available", "is_torchao_available")
"""How transformers asks for libraries that it imports where they are installed, for what no engine on a CPU does with
it: assisted generation, and quantised models of its own. They take a tenth of the import."""


class ForkServer:
    """Answers requests until the socket closes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._exit_codes: dict[int, int] = {}

    def serve(self) -> None:
        """Answer requests until the other end closes.

        Effects: forks; in the child this call never returns.
        """
        with self._connection.makefile("rw", encoding="utf-8") as lines:
            for line in lines:
                lines.write(json.dumps(self._answer(json.loads(line))) + "\n")
                lines.flush()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "exit_code":
            return {"exit_code": self._exit_code(request["pid"])}
        return {"pid": self._start(request)}

    def _start(self, request: dict[str, Any]) -> int:
        with _importing():
            import_classes_of(request["argv"])
        begun, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(begun)
            # A session of its own before anybody knows the pid: engines are stopped by process group.
            os.setsid()
            os.close(end)
            self._connection.detach()
            _become_engine(request)
        os.close(end)
        # Reads the end when the child has closed it, which it does after setsid.
        os.read(begun, 1)
        os.close(begun)
        return pid

    def _exit_code(self, pid: int) -> int | None:
        if pid not in self._exit_codes:
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if not reaped:
                return None
            self._exit_codes[pid] = os.waitstatus_to_exitcode(status)
        return self._exit_codes[pid]


def import_engine() -> None:
    """Import and patch what an engine needs.

    Effects: ends the process when the patches do not fit (see ``plugin``).
    """
    with _importing():
        with _left_out():
            for name in ENGINE_MODULES:
                importlib.import_module(name)
        import_registry()
        from sglang.srt.plugins import load_plugins

        load_plugins()


@contextlib.contextmanager
def _left_out() -> Iterator[None]:
    from transformers import utils

    answers = {name: getattr(utils, name) for name in NOT_NEEDED}
    for name in answers:
        setattr(utils, name, lambda *args, **kwargs: False)
    yield
    for name, answer in answers.items():
        setattr(utils, name, answer)


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    # Nothing of what is imported is ever garbage, and looking for some takes a fifth of the import's time.
    gc.disable()
    yield
    # The collector would touch, and so copy, every page that forked processes share.
    gc.collect()
    gc.freeze()
    gc.enable()


def _become_engine(request: dict[str, Any]) -> None:
    """Turn the forked child into an engine; never returns."""
    code = 1
    try:
        _write_output_to(request["log"])
        # After the import: what SGLang read of the environment by then is the server's, so only what it reads later
        # may differ between engines.
        for name in request["without"]:
            os.environ.pop(name, None)  # another engine's, whose server this is
        os.environ.update(request["environment"], **{FORKED_VARIABLE: "1"})
        _use_own_threads(request["environment"])
        tempfile.tempdir = None  # the server's choice is remembered there; the engine has a folder of its own
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        _seed_again()
        code = _run_engine(request["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _use_own_threads(environment: dict[str, str]) -> None:
    """OpenMP read its variable in the server, whose number of threads is that of the first engine."""
    wanted = environment.get("OMP_NUM_THREADS")
    if wanted is not None:
        import torch

        if torch.get_num_threads() != int(wanted):
            torch.set_num_threads(int(wanted))


def _run_engine(argv: list[str]) -> int:
    """What ``python -m sglang.launch_server`` does. Returns the exit code."""
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    sys.argv = ["launch_server.py", *argv]
    try:
        run_server(prepare_server_args(argv))
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        kill_process_tree(os.getpid(), include_parent=False)
    return 0


def _write_output_to(path: str) -> None:
    with open_log(Path(path), is_new=False) as log:
        for standard in (1, 2):
            os.dup2(log.fileno(), standard)


def _seed_again() -> None:
    """Forked processes must not draw the same random numbers."""
    import random

    import numpy
    import torch

    random.seed()
    numpy.random.seed()
    torch.seed()


def main() -> None:
    """Import the engine, say so, and serve."""
    # It finds its place in memory by the environment as it was at the start: once the first variable has been changed,
    # processes keep the names that they were started with.
    setproctitle.getproctitle()
    # Ctrl-C reaches the whole terminal group; the launcher decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    import_engine()
    connection.sendall(b'{"ready": true}\n')
    ForkServer(connection).serve()


if __name__ == "__main__":
    main()
