"""A worker's link: it sends or receives the KV of one prompt at a time, first come first served."""

import asyncio

from prefillshare.simulation.clock import now_s
from prefillshare.simulation.model import HandoffModel


class Link:
    """When the link is free again."""

    def __init__(self) -> None:
        self.free_at_s = 0.0
        self.busy_s = 0.0


async def hand_off(model: HandoffModel, sender: Link, receiver: Link, num_tokens: int) -> None:
    """Move the KV of so many tokens; both links are taken for as long as that takes."""
    if not num_tokens:
        return
    seconds = num_tokens * model.kv_token_bytes / model.bytes_per_s
    begin_s = max(now_s(), sender.free_at_s, receiver.free_at_s)
    sender.free_at_s = receiver.free_at_s = begin_s + seconds
    sender.busy_s += seconds
    receiver.busy_s += seconds
    await asyncio.sleep(begin_s + seconds + model.latency_s - now_s())
