"""A family in figures: what each task added and reused, and what that takes beside separate modules."""

from typing import Any

from prefillshare.grow.family import Family, count_parameters, count_separate, count_units, reused_by_task
from prefillshare.grow.publish import adapter_rank


def task_rows(family: Family) -> list[dict[str, Any]]:
    """One row per task, in the order of growing."""
    return [
        {
            "task": task.name,
            "stamp": task.stamp,
            "num_rows": task.figures["data"]["num_rows"],
            "loss": task.figures["held_out_loss"]["prune"],
            "rank": adapter_rank(task),
            **count_units(task.uses),
            "reused_from": reused_by_task(family, task),
            "num_parameters": count_parameters(family.shapes, task.uses),
        }
        for task in family.tasks
    ]


def summary(family: Family, rank: int) -> dict[str, Any]:
    """All tasks together beside as many separate adapters of a rank."""
    num_parameters = sum(count_parameters(family.shapes, task.uses) for task in family.tasks)
    per_task = count_separate(family.shapes, rank)
    num_separate = per_task * len(family.tasks)
    return {
        "rank": rank,
        "num_parameters": num_parameters,
        "num_separate_per_task": per_task,
        "num_separate": num_separate,
        "ratio": num_parameters / num_separate,
        "pool_bytes": family.pool.num_bytes,
    }
