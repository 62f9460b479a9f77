"""The ideal hit ratio, against brute force and against the formula of the paper."""

import random

import pytest

from prefillshare.bench.metrics.prefixes import Accounting, prompts_of
from prefillshare.bench.records import CallRecord
from prefillshare.bench.workloads.base import Shape, Workload
from prefillshare.bench.workloads.factory import make_workload

MODULES = ("a", "b", "c")


def _common(left: list[int], right: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), min(len(left), len(right)))


def ideal_shared_ratio(start: int, growth: int, call: int) -> float:
    """Hit ratio of call `call` (from 2 on) of a session over a shared cache without limits.

    Units: the prompt of call i has start + i * growth tokens.
    Source: paper, the ideal of call i: (L + (i-1) d) / (L + i d).
    """
    return (start + (call - 1) * growth) / (start + call * growth)


def ideal_own_ratio(start: int, growth: int, call: int, num_modules: int) -> float:
    """The same over caches per module; 0 until a module's second turn.

    Source: paper: (L + (i-N) d) / (L + i d).
    """
    return (start + (call - num_modules) * growth) / (start + call * growth) if call > num_modules else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_accounting_equals_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    seen: list[tuple[str, list[int], list[int]]] = []
    accounting, shared, own, known, unique = Accounting(), 0, 0, 0, set()
    for _ in range(60):
        # Prompts over two tokens share prefixes of all lengths, and often are each other's prefix.
        prompt = [rng.randrange(2) for _ in range(rng.randrange(1, 12))]
        module, output = rng.choice(MODULES), [rng.randrange(2) for _ in range(3)]
        limit = len(prompt) - 1
        shared += min(limit, max((_common(prompt, before) for _, before, _ in seen), default=0))
        texts = [before + answer for _, before, answer in seen]
        known += min(limit, max((_common(prompt, text) for text in texts), default=0))
        mine = [before + answer for name, before, answer in seen if name == module]
        own += min(limit, max((_common(prompt, before) for before in mine), default=0))
        unique |= {tuple(prompt[: end + 1]) for end in range(len(prompt))}
        accounting.add(module, prompt, output, None)
        seen.append((module, prompt, output))
    assert (accounting.shared_tokens, accounting.own_tokens) == (shared, own)
    assert accounting.known_tokens == known
    assert accounting.unique_tokens == len(unique)
    assert accounting.prompt_tokens == sum(len(prompt) for _, prompt, _ in seen)


def _calls(workload: Workload) -> list[CallRecord]:
    """All calls of the workload, one after the other, answered with the token 5."""
    calls = []
    for number, session in enumerate(workload.sessions):
        for place, step in enumerate(session.steps):
            calls.append(
                CallRecord(
                    session=number,
                    step=place,
                    module=step.module,
                    due_s=float(len(calls)),
                    output=[5] * step.output_tokens,
                )
            )
    return calls


@pytest.mark.parametrize("num_modules", [1, 2, 3])
def test_react_reaches_the_formula_of_the_paper(num_modules: int) -> None:
    shape = Shape(num_sessions=1, start_tokens=40, growth_tokens=4, output_tokens=(3,), turns=9)
    workload = make_workload("react", shape, MODULES[:num_modules])
    calls, growth = _calls(workload), 7
    start = 40 - growth  # the formula counts calls from 1, and call 1 has start + growth tokens
    accounting, before = Accounting(), (0, 0, 0)
    for number, (call, prompt) in enumerate(zip(calls, prompts_of(workload, calls), strict=True), start=1):
        accounting.add(call.module, prompt, (), None)  # the formula knows no generated tokens in a module's cache
        now = (accounting.prompt_tokens, accounting.shared_tokens, accounting.own_tokens)
        total, shared, own = (value - earlier for value, earlier in zip(now, before, strict=True))
        assert total == start + number * growth
        assert shared / total == (ideal_shared_ratio(start, growth, number) if number > 1 else 0)
        assert own / total == ideal_own_ratio(start, growth, number, num_modules)
        before = now


def test_prompts_are_put_together_again_with_roles_and_answers() -> None:
    shape = Shape(num_sessions=2, start_tokens=4, growth_tokens=2, output_tokens=(3,), turns=2, role_tokens=1)
    workload = make_workload("react", shape, ("a",))
    first, second = workload.sessions[1].steps
    prompt = prompts_of(workload, _calls(workload))[3]
    assert prompt == [*first.added, 5, 5, 5, *second.added, *second.role]


def test_cross_module_hits_are_those_that_another_module_paid_for() -> None:
    accounting = Accounting()
    accounting.add("a", [1, 2, 3, 4], [9], 0)
    accounting.add("b", [1, 2, 3, 4, 5, 6], [9], 4)  # 4 tokens of a
    accounting.add("a", [1, 2, 3, 4, 5, 6, 7], [9], 6)  # 4 of its own, 2 of b
    assert accounting.cross_tokens == 6
    accounting.add("c", [1, 2, 3, 8], [9], 2)  # the cache held less than it could
    assert accounting.cross_tokens == 8
