"""Calls without a common prefix: what sharing costs where there is nothing to share."""

from prefillshare.bench.workloads.base import FIRST_TOKEN, Session, Shape, Step, Workload, make_up_tokens, pick_in_turn


def unshared(shape: Shape, modules: tuple[str, ...]) -> Workload:
    """As many calls as `react` has, each a session of its own, dealt to the modules."""
    sessions = []
    for number in range(shape.num_sessions * shape.turns):
        step = Step(
            module=modules[number % len(modules)],
            # The number itself comes first, so that no prefix is shared by chance.
            added=_number_tokens(shape, number) + make_up_tokens(shape, shape.start_tokens, "unshared", number),
            output_tokens=pick_in_turn(shape.output_tokens, number),
        )
        sessions.append(Session(steps=(step,)))
    return Workload(name="unshared", modules=modules, sessions=tuple(sessions))


def _number_tokens(shape: Shape, number: int) -> tuple[int, ...]:
    """The digits of `number` as two made-up tokens, with the unit first."""
    base = shape.vocab_size - FIRST_TOKEN
    return (FIRST_TOKEN + number % base, FIRST_TOKEN + number // base % base)
