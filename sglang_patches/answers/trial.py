"""Tries out what a caller wants answers to follow, in a process that may be lost: prepared, then followed for a while.

``serve`` is the body of a process of its own, which forks one more for each trial. A trial ends by itself when it has
used its share of processor time or of memory, or when the parser overflows its stack: the asker then reads the end of
the connection and no verdict. What the trial makes is thrown away; the scheduler makes it again, and is known to be
able to. Walks through random answers show what no preparation does: that nothing satisfies the grammar, and that a
single token takes longer than a step may.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sglang_patches.answers import schemas

if TYPE_CHECKING:
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammar, XGrammarGrammarBackend
    from xgrammar import GrammarMatcher, TokenizerInfo

CPU_SECONDS = 4.0
WALL_SECONDS = 20
"""On a busy machine a trial waits for its processor time; this ends one that waits for something else."""
MEMORY_BYTES = 512 << 20
STACK_BYTES = 4 << 20
"""Half of what a thread of the scheduler has."""
STEP_SECONDS = 0.1
"""What one token of one answer may take of a step that all answers share."""
WALK_SECONDS = 0.4
WALK_TOKENS = 512
NUM_WALKS = 4

ANY_JSON = "$$ANY$$"
"""SGLang's own name for a schema that allows all JSON."""

_DIE_WITH_PARENT = 1


class GrammarInfo:
    """Stands for the tokenizer where SGLang's backend asks for one: its own seam for those that bring this along."""

    def __init__(self, serialized: str) -> None:
        import xgrammar

        self._info = xgrammar.TokenizerInfo.deserialize_json(serialized)

    def init_xgrammar(self) -> tuple[TokenizerInfo, None]:
        return self._info, None


def serve(control: socket.socket, tokenizer_info: str, vocab_size: int, any_whitespace: bool) -> None:
    """Fork a trial for each connection that is handed over, until the other end closes; never returns."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a trial ended
    _close_all_but(control)
    os.nice(5)  # a trial must not slow down the answers that are being given
    backend = _backend(tokenizer_info, vocab_size, any_whitespace)
    # The collector would touch, and so copy, every page that trials share with this process.
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            _answer(socket.socket(fileno=descriptors[0]), backend)
        os.close(descriptors[0])


def _close_all_but(control: socket.socket) -> None:
    """A forked process would keep the connections of callers open."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != control.fileno():
            with contextlib.suppress(OSError):
                os.close(int(name))


def _backend(tokenizer_info: str, vocab_size: int, any_whitespace: bool) -> XGrammarGrammarBackend:
    import xgrammar
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend

    info = GrammarInfo(tokenizer_info)
    backend = XGrammarGrammarBackend(info, vocab_size=vocab_size, any_whitespace=any_whitespace)
    # Threads would not be counted the same on every machine, and none may be there when a trial is forked.
    backend.grammar_compiler = xgrammar.GrammarCompiler(info.init_xgrammar()[0], max_threads=1, cache_enabled=False)
    return backend


def _answer(connection: socket.socket, backend: XGrammarGrammarBackend) -> None:
    """Read one question, write the verdict (empty: it can be used), end the process."""
    try:
        _limit()
        with connection.makefile("rwb") as stream:
            kind = stream.readline().decode().strip()
            text = stream.read(int(stream.readline())).decode()
            stream.write((judge(backend, kind, text) or "").encode(errors="replace") + b"\n")
    finally:
        os._exit(0)


def _limit() -> None:
    # The limit is on addresses in all, and what the process has mapped before is no fault of the grammar.
    used_pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = used_pages * resource.getpagesize() + MEMORY_BYTES
    for what, limit in ((resource.RLIMIT_AS, size), (resource.RLIMIT_STACK, STACK_BYTES), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    # Both signals end a process that does not handle them, also in the middle of foreign code.
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)


def judge(backend: XGrammarGrammarBackend, kind: str, text: str) -> str | None:
    """Why answers cannot follow this grammar; None when they can."""
    if kind == "json" and text != ANY_JSON and (reason := schemas.find_problem(text)):
        return reason
    try:
        grammar = getattr(backend, f"dispatch_{kind}")(text)
    except Exception as error:  # the parsers raise what they like, and all of it means the same
        return str(error) or type(error).__name__
    if not hasattr(grammar, "matcher"):
        return str(grammar.error_message)
    return next(_find_faults(grammar, backend.vocab_size), None)


def _find_faults(grammar: XGrammarGrammar, vocab_size: int) -> Iterator[str]:
    began = time.process_time()
    for seed in range(NUM_WALKS):
        for is_possible, seconds in _walk(grammar.copy().matcher, vocab_size, random.Random(seed)):
            if not is_possible:
                yield "nothing satisfies it"
            if seconds > STEP_SECONDS:
                yield f"it is ambiguous: one token takes {seconds:.1f} s to follow, more than {STEP_SECONDS} s"
            if time.process_time() - began > WALK_SECONDS:
                return


def _walk(matcher: GrammarMatcher, vocab_size: int, dice: random.Random) -> Iterator[tuple[bool, float]]:
    """Whether any token may come next, and how long one token took, along a random answer."""
    import numpy
    import xgrammar

    mask = xgrammar.allocate_token_bitmask(1, vocab_size)
    for _ in range(WALK_TOKENS):
        began = time.process_time()
        matcher.fill_next_token_bitmask(mask)
        allowed = numpy.flatnonzero(numpy.unpackbits(mask.numpy().view(numpy.uint8), bitorder="little")[:vocab_size])
        if len(allowed) == 0:
            yield False, 0.0
            return
        matcher.accept_token(int(dice.choice(allowed)))
        yield True, time.process_time() - began
        if matcher.is_terminated():
            return
