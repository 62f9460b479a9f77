"""A load that shifts, over workers that stay what they are and over workers that follow it.

Run: `python -m benchmarks.roles [--minutes 15] [--move-s 60] [--places 192]`. Simulated: times are those of the worker
model, whatever this machine does meanwhile. Three phases: long prompts with short answers for both modules; long
answers of `math`; long answers of `tool`.
"""

import argparse
import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.roles.following import FollowingSystem
from prefillshare.bench.drivers.client import CallFailedError
from prefillshare.bench.metrics.statistics import percentile
from prefillshare.bench.systems.base import Target
from prefillshare.config.roles import Limits, Roles
from prefillshare.config.router import Router
from prefillshare.simulation.clock import now_s, run_simulated
from prefillshare.simulation.presets import H100_QWEN3_8B
from prefillshare.simulation.system import Size

MODULES = ("math", "tool")
SIZE = Size(num_prefill=2, num_decode=4)
ROLES = Roles(follow_load=True, prefill=Limits(min=1), modules={name: Limits(min=1) for name in MODULES})
PLACES = 192
"""Calls that a decode worker has KV for at these lengths: further ones wait at the router, not in the worker."""
VOCABULARY = 150_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A load that stays the same for a while."""

    title: str
    """For people."""
    modules: tuple[str, ...]
    """Called in turn."""
    calls_per_s: float
    """Poisson arrivals."""
    prompt_tokens: int
    """Length of each prompt; none begins as another."""
    answer_tokens: int
    """Length of each answer."""


PHASES = (
    Phase(title="long prompts", modules=MODULES, calls_per_s=16, prompt_tokens=6000, answer_tokens=50),
    Phase(title="long answers of math", modules=("math",), calls_per_s=26, prompt_tokens=500, answer_tokens=1000),
    Phase(title="long answers of tool", modules=("tool",), calls_per_s=26, prompt_tokens=500, answer_tokens=1000),
)


@dataclass(slots=True)
class Seen:
    """What the calls of one phase came to."""

    latencies_s: list[float] = field(default_factory=list)
    firsts_s: list[float] = field(default_factory=list)
    num_refused: int = 0


async def drive(system: FollowingSystem, phase_s: float) -> list[Seen]:
    """Run every phase; return what each came to."""
    following = asyncio.create_task(system.follow()) if system.follows else None
    seen = [Seen() for _ in PHASES]
    source = random.Random(0)
    async with asyncio.TaskGroup() as calls:
        for phase, found in zip(PHASES, seen, strict=True):
            until_s, number = now_s() + phase_s, 0
            while now_s() < until_s:
                number += 1
                module = phase.modules[number % len(phase.modules)]
                prompt = [source.randrange(VOCABULARY), *([number] * (phase.prompt_tokens - 1))]
                calls.create_task(ask(system, module, prompt, phase.answer_tokens, f"{phase.title} {number}", found))
                await asyncio.sleep(source.expovariate(phase.calls_per_s))
    if following is not None:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
    return seen


async def ask(
    system: FollowingSystem, module: str, prompt: list[int], num_tokens: int, session: str, seen: Seen
) -> None:
    """Call once, and note how long it took."""
    due_s = now_s()
    try:
        reply = await system.ask(Target(url="", model=module), prompt, num_tokens, session)
    except CallFailedError:
        seen.num_refused += 1
        return
    seen.latencies_s.append(now_s() - due_s)
    seen.firsts_s.append(reply.times[0] - due_s)


async def run(roles: Roles, settings: Router, phase_s: float, move_s: float) -> tuple[list[Seen], FollowingSystem]:
    """Run one of the two."""
    system = FollowingSystem(
        modules=MODULES, size=SIZE, model=H100_QWEN3_8B, settings=settings, roles=roles, move_s=move_s
    )
    return await drive(system, phase_s), system


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, and the moves."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roles", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="length of each phase")
    parser.add_argument("--move-s", type=float, default=60.0, help="time that a worker is away when it moves")
    parser.add_argument("--places", type=int, default=PLACES, help="max_running_per_worker")
    given = parser.parse_args(argv)
    settings = Router(max_running_per_worker=given.places)
    print(f"{SIZE.title} of {H100_QWEN3_8B.name}, two replicas of each module, {given.minutes:g} min each, simulated\n")
    print("| phase | roles | TTFT p50 | TTFT p95 | call p50 | call p95 | refused of all |")
    print("|---|---|---|---|---|---|---|")
    for title, roles in (("stay", Roles()), ("follow the load", ROLES)):
        seen, system = run_simulated(run(roles, settings, given.minutes * 60, given.move_s))
        for phase, found in zip(PHASES, seen, strict=True):
            print(f"| {phase.title} | {title} | {_describe(found)} |")
        for moved in system.moved:
            print(f"<!-- {moved.at_s / 60:.1f} min: {moved.move.worker} {moved.move.text} -->")


def _describe(seen: Seen) -> str:
    figures = [
        f"{percentile(values, share):.2f} s" for values in (seen.firsts_s, seen.latencies_s) for share in (50, 95)
    ]
    return " | ".join([*figures, f"{seen.num_refused} of {seen.num_refused + len(seen.latencies_s)}"])


if __name__ == "__main__":
    main()
