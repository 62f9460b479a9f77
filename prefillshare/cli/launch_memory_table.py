"""The table of `launch --dry-run`: which worker gets which device, and how its memory is spent."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefillshare.serving.plan.budget import Budget

HEADER = ("worker", "device", "memory per GPU", "weights", "KV cache", "KV tokens", "other")


def memory_table(budgets: "Sequence[Budget]") -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return header and rows."""
    return HEADER, [_row(budget) for budget in budgets]


def _row(budget: "Budget") -> Sequence[str]:
    from prefillshare.serving.plan.memory import gib

    about = "about " if budget.is_measured_at_start else ""
    shared = f", shared by {budget.num_sharing}" if budget.num_sharing > 1 else ""
    return (
        budget.name,
        f"GPU {', '.join(budget.gpus)}{shared}" if budget.gpus else "CPU",
        f"{gib(budget.device_bytes)} GiB" if budget.device_bytes is not None else "",
        f"{gib(budget.weight_bytes)} GiB",
        f"{about}{gib(budget.kv_bytes)} GiB",
        f"{about}{budget.kv_tokens:,}",
        f"{gib(budget.other_bytes)} GiB" if budget.other_bytes else "",
    )
