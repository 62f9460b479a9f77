"""Sessions of agents that are called in turn over one growing context: what `react` and `reflexion` have in common."""

from collections.abc import Callable

from prefillshare.bench.workloads.base import Session, Shape, Step, Workload, make_up_tokens, pick_in_turn

Pattern = Callable[[Shape, int], tuple[int, int]]
"""From the shape and the number of a call: tokens that join the context before it, and tokens of its answer."""


def agent_loop(name: str, shape: Shape, modules: tuple[str, ...], pattern: Pattern) -> Workload:
    """Sessions in which call i is the turn of module i mod N, as `pattern` says how much is added and answered."""
    sessions = tuple(_session(shape, modules, pattern, number) for number in range(shape.num_sessions))
    return Workload(name=name, modules=modules, sessions=sessions)


def _session(shape: Shape, modules: tuple[str, ...], pattern: Pattern, number: int) -> Session:
    steps = []
    for call in range(shape.turns):
        module = modules[call % len(modules)]
        added, output_tokens = pattern(shape, call)
        steps.append(
            Step(
                module=module,
                added=make_up_tokens(shape, added, "session", number, call),
                role=make_up_tokens(shape, shape.role_tokens, "role", module),
                output_tokens=output_tokens,
            )
        )
    return Session(steps=tuple(steps))


def start_then_growth(shape: Shape, call: int) -> tuple[int, int]:
    """The first call brings the start context, each further one an observation."""
    return shape.start_tokens if call == 0 else shape.growth_tokens, pick_in_turn(shape.output_tokens, call)
