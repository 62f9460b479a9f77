"""What answers shall follow (schema, regular expression, grammar, tags) is tried out before the scheduler sees it.

SGLang prepares it in the scheduler's process without a limit of time or memory, and follows it there between two steps
that all calls share. A nested schema of 20 kB takes minutes, some expressions take seconds per token, and a stack
overflow ends the engine. What cannot be prepared is found only there; across workers that is after the hand-off has
begun, so the call ends in a timeout.

Text above ``MAX_CHARACTERS`` is refused at once. The rest goes to a trial in a process of its own
(:mod:`sglang_patches.answers.trial`), while other calls are served; its verdict is kept for the next call with the same
text. A prefill worker follows no grammar and tries none. ``engine/tokenizer_manager`` asks.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sglang_patches.answers import trial

if TYPE_CHECKING:
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

MAX_CHARACTERS = 64 * 1024
MAX_GRAMMARS_PER_CALL = 64
NUM_TRIALS = 4
"""At the same time."""
NUM_VERDICTS_KEPT = 512

KINDS = {"json_schema": "json", "regex": "regex", "ebnf": "ebnf", "structural_tag": "structural_tag"}
"""Field of the sampling parameters -> SGLang's name for it."""

_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")
"""Time and source line, with which xgrammar's messages begin."""


class GrammarTrials:
    """The process that tries grammars out, and what it found."""

    def __init__(self, manager: TokenizerManager) -> None:
        self._manager = manager
        self._control: socket.socket | None = None
        self._starting = threading.Lock()
        self._askers = ThreadPoolExecutor(NUM_TRIALS, thread_name_prefix="grammar-trial")
        self._verdicts: OrderedDict[tuple[str, str], str | None] = OrderedDict()

    def start(self) -> None:
        """Start the process now; else the first call does it."""
        with self._starting:
            self._control = self._control or self._start()

    async def find_problem(self, kind: str, text: str) -> str | None:
        """Why answers cannot follow ``text``, or None."""
        key = (kind, text)
        if key not in self._verdicts:
            found = await asyncio.get_running_loop().run_in_executor(self._askers, self._try, kind, text)
            # Two calls may try the same text at the same time; both come to the same verdict.
            self._verdicts[key] = found
            if len(self._verdicts) > NUM_VERDICTS_KEPT:
                self._verdicts.popitem(last=False)
        return self._verdicts[key]

    def _try(self, kind: str, text: str) -> str | None:
        # Once more: a trial is lost with the process that forks it, too (no memory, no further process), and whoever
        # comes with the same text later is told what is found here.
        began = time.monotonic()
        answer = self._ask(kind, text)
        if not answer and time.monotonic() - began < trial.CPU_SECONDS:  # later, it ran into its limit
            answer = self._ask(kind, text)
        if not answer:
            return (
                f"preparing it takes more than {trial.CPU_SECONDS:g} s, or more than "
                f"{trial.MEMORY_BYTES >> 20} MiB of memory"
            )
        return answer.decode().strip() or None

    def _ask(self, kind: str, text: str) -> bytes:
        """The line that a trial answers; not even an empty one where it was lost, as at one of its limits."""
        ours, theirs = socket.socketpair()
        with ours:
            # Closed here once it is handed over: only the trial holds it then, so its death ends our reading.
            with theirs:
                self._hand_over(theirs)
            data = text.encode(errors="replace")
            try:
                # What could not be written is tried again when the stream is closed.
                with ours.makefile("rwb") as stream:
                    stream.write(f"{kind}\n{len(data)}\n".encode() + data)
                    stream.flush()
                    return stream.readline()
            except OSError:
                return b""

    def _hand_over(self, connection: socket.socket) -> None:
        # Several threads try at the same time, and they share the one process that forks the trials.
        with self._starting:
            try:
                self._send(connection)
            except OSError:  # the process is gone, as when the machine was out of memory
                self._control = None
                self._send(connection)

    def _send(self, connection: socket.socket) -> None:
        if self._control is None:
            self._control = self._start()
        socket.send_fds(self._control, [b"1"], [connection.fileno()])

    def _start(self) -> socket.socket:
        import xgrammar

        manager = self._manager
        config = manager.model_config
        stops = list(config.hf_eos_token_id) if config.hf_eos_token_id else None
        info = xgrammar.TokenizerInfo.from_huggingface(
            manager.tokenizer, vocab_size=config.vocab_size, stop_token_ids=stops
        )
        any_whitespace = not manager.server_args.constrained_json_disable_any_whitespace
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = (theirs, info.serialize_json(), config.vocab_size, any_whitespace)
        multiprocessing.Process(target=trial.serve, args=arguments, daemon=True).start()
        theirs.close()
        return ours


async def check_grammars(trials: GrammarTrials, all_params: list[object]) -> None:
    """Try every grammar of a call.

    Raises: ValueError saying which cannot be used, why, and what to do.
    """
    found = dict.fromkeys(grammar for params in all_params for grammar in _read_grammars(params))
    if len(found) > MAX_GRAMMARS_PER_CALL:
        raise ValueError(
            f"a call may hold {MAX_GRAMMARS_PER_CALL} different grammars, not {len(found)}: send more calls"
        )
    for name, text in found:
        reason = _find_length_problem(text) or await trials.find_problem(KINDS[name], text)
        if reason:
            reason = (_PLACE.sub("", reason).strip().splitlines() or [reason])[0]
            raise ValueError(f"{name} cannot be used ({reason[:300]}): correct it")


def _read_grammars(params: object) -> Iterator[tuple[str, str]]:
    if not isinstance(params, Mapping):
        return
    for name in KINDS:
        value = params.get(name)
        if not value:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{name} is {str(value)[:100]!r}: give it as text")
        yield name, value


def _find_length_problem(text: str) -> str | None:
    return f"it has {len(text)} characters, more than {MAX_CHARACTERS}" if len(text) > MAX_CHARACTERS else None
