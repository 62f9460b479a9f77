"""The three tasks of the tiny family: one file per task, `base` holds what they share."""

from prefillshare.tiny.language.tasks import code, math, tool
from prefillshare.tiny.language.tasks.base import Problem, Sampler, Split, TaskName, Wording, split_of

SAMPLERS: dict[TaskName, Sampler] = {"math": math.sample, "tool": tool.sample, "code": code.sample}

__all__ = ["SAMPLERS", "Problem", "Sampler", "Split", "TaskName", "Wording", "split_of"]
