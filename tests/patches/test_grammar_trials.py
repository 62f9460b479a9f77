"""A trial that was lost tells nothing of its grammar: it is tried once more before that is kept for others."""

import asyncio
import socket
from typing import Any

import pytest

from sglang_patches.answers.trials import GrammarTrials


class Trials(GrammarTrials):
    """Trials whose processes answer what the test says, one after the other; None is lost without an answer."""

    def __init__(self, *answers: bytes | None) -> None:
        manager: Any = None
        super().__init__(manager)
        self._answers = list(answers)
        self._open: list[socket.socket] = []

    def _hand_over(self, connection: socket.socket) -> None:
        answer = self._answers.pop(0)
        if answer is not None:
            self._open.append(connection.dup())
            self._open[-1].sendall(answer)

    def find(self) -> str | None:
        found = asyncio.run(self.find_problem("json", "{}"))
        for connection in self._open:
            connection.close()
        return found


@pytest.mark.parametrize("reason", [None, "nothing satisfies it"])
def test_a_lost_trial_is_made_again_and_what_that_finds_is_kept(reason: str | None) -> None:
    trials = Trials(None, (reason or "").encode() + b"\n")
    assert [trials.find(), trials.find()] == [reason, reason]


def test_a_grammar_that_is_lost_twice_is_refused_and_not_tried_a_third_time() -> None:
    trials = Trials(None, None)
    first = trials.find()
    assert first is not None
    assert "preparing it takes more than" in first
    assert trials.find() == first
