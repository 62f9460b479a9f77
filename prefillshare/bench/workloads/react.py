"""ReAct: thought and action of one agent, an observation from outside, then the next agent's turn."""

from prefillshare.bench.workloads.agent_loop import agent_loop, start_then_growth
from prefillshare.bench.workloads.base import Shape, Workload


def react(shape: Shape, modules: tuple[str, ...]) -> Workload:
    """Calls of equal growth over one context."""
    return agent_loop("react", shape, modules, start_then_growth)
