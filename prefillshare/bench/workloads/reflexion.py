"""Reflexion: trials of an actor, an evaluator and a writer of reflections over one memory of all trials.

In each trial the actor answers at length after an observation, the evaluator with a short verdict over what is there,
and the reflection, of middling length, joins the memory. The modules take these parts in turn.
"""

from prefillshare.bench.workloads.agent_loop import agent_loop
from prefillshare.bench.workloads.base import Shape, Workload, pick_in_turn

_PARTS = 3
_LENGTHS = (2.0, 0.25, 1.0)
"""Answers of actor, evaluator and reflection, as factors on the output length."""


def reflexion(shape: Shape, modules: tuple[str, ...]) -> Workload:
    """Trials of three calls; only the actor's call brings something new from outside."""
    return agent_loop("reflexion", shape, modules, _pattern)


def _pattern(shape: Shape, call: int) -> tuple[int, int]:
    part = call % _PARTS
    added = shape.start_tokens if call == 0 else shape.growth_tokens if part == 0 else 0
    return added, max(1, round(_LENGTHS[part] * pick_in_turn(shape.output_tokens, call)))
