"""Load for a running deployment, to see the dashboard at work: sessions in which modules take turns over one context.

Run: `python -m benchmarks.tui.load --url http://127.0.0.1:30000 [--sessions 4] [--seconds 60]`.
One session in four tells each module its role in front of everything else, which keeps it from sharing.
"""

import argparse
import asyncio
import itertools
import os
import random
import time

import httpx

LONGEST_TURNS = 12
NAMES = "Omar Lena Ravi Mia Theo Nora".split()
THINGS = "beads boxes pens cups rings maps".split()


async def main() -> None:
    """Run sessions side by side until the time is over."""
    options = _options()
    key = os.environ.get("PREFILLSHARE_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    until = time.monotonic() + options.seconds
    async with httpx.AsyncClient(base_url=options.url, headers=headers, timeout=120, trust_env=False) as client:
        numbers = itertools.count(1)
        modules = options.modules.split(",")
        await asyncio.gather(*(_sessions(client, modules, numbers, until) for _ in range(options.sessions)))


async def _sessions(
    client: httpx.AsyncClient, modules: list[str], numbers: "itertools.count[int]", until: float
) -> None:
    while time.monotonic() < until:
        number = next(numbers)
        await _session(client, modules, number, until, tells_role_first=number % 4 == 0)


async def _session(
    client: httpx.AsyncClient, modules: list[str], number: int, until: float, *, tells_role_first: bool
) -> None:
    dice = random.Random(number)
    talk: list[dict[str, str]] = []
    for turn in range(dice.randint(LONGEST_TURNS // 2, LONGEST_TURNS)):
        if time.monotonic() > until:
            return
        module = modules[turn % len(modules)]
        talk.append({"role": "user", "content": _question(dice)})
        role = [{"role": "system", "content": f"You are the {module} worker."}] if tells_role_first else []
        body = {"model": module, "messages": [*role, *talk], "max_tokens": 24, "temperature": 0, "stream": False}
        reply = await client.post(
            "/v1/chat/completions", json=body, headers={"X-Session-ID": f"agents-{os.getpid() % 1000}-{number}"}
        )
        reply.raise_for_status()
        talk.append({"role": "assistant", "content": reply.json()["choices"][0]["message"]["content"] or "-"})


def _question(dice: random.Random) -> str:
    name, thing = dice.choice(NAMES), dice.choice(THINGS)
    count, grow = dice.randint(2, 9), dice.randint(2, 9)
    return (
        f"{name} {count} boxes, {thing} {grow} per box\n{name}'s shelf grows by {dice.randint(2, 9)} boxes. "
        "What stands on it?"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tui.load", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:30000")
    parser.add_argument("--sessions", type=int, default=4, help="sessions at a time")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--modules", default="math,tool,code", help="modules that take turns")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
