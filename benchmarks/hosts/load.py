"""Calls against a deployment while parts of it die: each answer is compared, and each end is classified."""

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from benchmarks.hosts.watched import greedy
from prefillshare import direct

HUNG_S = 60.0
"""A call that has not ended by then never will."""
_PAUSE_S = 0.2

End = Literal["right", "wrong", "streamed, then failed", "failed", "no router", "hung"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A call of which the answer is known."""

    module: str
    """Decode module."""
    prompt: tuple[int, ...]
    """Token ids."""
    tokens: tuple[int, ...]
    """The answer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one call ended."""

    end: End
    """`no router`: nobody took the connection, so nothing was asked; every client library tries that again."""
    started_s: float
    """When it began, on the monotonic clock."""
    duration_s: float
    """How long it took."""
    what: str = ""
    """Why it failed."""


class Load:
    """A few clients that ask in turn, half of them for streams, until they are told to stop."""

    def __init__(self, url: str, questions: Sequence[Question], num_clients: int) -> None:
        self._url = url
        self._questions = questions
        self._stop = threading.Event()
        self.outcomes: list[Outcome] = []
        self._clients = [threading.Thread(target=self._run, args=(number,)) for number in range(num_clients)]

    def __enter__(self) -> "Load":
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for client in self._clients:
            client.join()

    def count(self, start_s: float = 0.0) -> Counter[End]:
        """Return how the calls ended that began at `start_s` or later."""
        return Counter(outcome.end for outcome in list(self.outcomes) if outcome.started_s >= start_s)

    def _run(self, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            question = self._questions[turn % len(self._questions)]
            outcome = ask(self._url, question, is_stream=turn % 2 == 0)
            self.outcomes.append(outcome)
            # A step that shares no factor with the number of questions: every client asks all of them, both ways.
            turn += 1 if outcome.end == "right" else 0
            self._stop.wait(0.0 if outcome.end == "right" else _PAUSE_S)


def ask(url: str, question: Question, *, is_stream: bool) -> Outcome:
    """Make one call."""
    started, received = time.monotonic(), 0
    address = f"{url}/modules/{question.module}/generate"
    body = greedy(question.prompt, len(question.tokens), is_stream=is_stream)

    def ended(end: End, what: str = "") -> Outcome:
        return Outcome(end=end, started_s=started, duration_s=time.monotonic() - started, what=what)

    try:
        tokens: list[int] = []
        with direct.direct_client(timeout=HUNG_S) as client, client.stream("POST", address, json=body) as reply:
            if reply.status_code != 200:
                return ended("failed", f"{reply.status_code}: {reply.read().decode()[:300]}")
            for line in direct.read_lines(reply):
                if time.monotonic() - started > HUNG_S:
                    return ended("hung", f"{received} pieces within {HUNG_S:.0f} s")
                piece = _read(line)
                if "error" in piece:
                    return ended("streamed, then failed" if received else "failed", str(piece["error"])[:300])
                tokens = piece.get("output_ids", tokens)
                received += bool(piece) and is_stream
        if len(tokens) < len(question.tokens) and tuple(tokens) == question.tokens[: len(tokens)]:
            return ended("streamed, then failed" if received else "failed", "the answer broke off")
        return ended("right" if tuple(tokens) == question.tokens else "wrong", f"{tokens} to {question}")
    except httpx.ConnectError as error:
        return ended("no router", str(error))
    except httpx.TimeoutException as error:
        return ended("hung", f"{type(error).__name__} after {received} pieces")
    except httpx.TransportError as error:
        return ended("streamed, then failed" if received else "failed", f"{type(error).__name__}: {error}")


def _read(line: bytes) -> dict[str, Any]:
    """A line of a stream, or of an answer as a whole."""
    text = line.removeprefix(b"data: ").strip()
    return json.loads(text) if text.startswith(b"{") else {}
