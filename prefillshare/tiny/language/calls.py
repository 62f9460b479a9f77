"""Rows for a first training run: function calls that are asked for in plain words.

models/recipes/tiny-calls.jsonl holds `call_rows(0, NUM_ROWS)`. The workspaces are small and the words are those of the
base's corpus, so that a laptop learns it in two minutes; the shipped `tool` learned users' own words.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

from prefillshare.tiny.language.tasks import tool
from prefillshare.tiny.language.workspace import WorkspaceSize, sample_workspace

NUM_ROWS = 320
_SIZE = WorkspaceSize(people=(0, 0), functions=(2, 3), constants=(0, 0))


def call_rows(seed: int, num_rows: int) -> Iterator[dict[str, Any]]:
    """Conversations in the form of a training file, each about a workspace of its own."""
    rng = Random(f"calls-{seed}")
    for _ in range(num_rows):
        workspace = sample_workspace(rng, _SIZE)
        messages = [{"role": "system", "content": workspace.render()}]
        for _ in range(2):
            problem = tool.sample(rng, workspace, "plain")
            messages += [
                {"role": "user", "content": problem.question},
                {"role": "assistant", "content": problem.answer},
            ]
        yield {"messages": messages}
