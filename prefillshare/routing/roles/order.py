"""One move on its way.

draining --(its calls have ended)--> open --(a supervisor: begun)--> moving --(done or failed)--> over
   |                                   |                                |
   +-- too long: it serves on ---------+-- nobody took it: serves on    +-- nobody heard of it: given up
"""

from dataclasses import dataclass
from typing import Literal

from prefillshare.roles import Move

OrderState = Literal["draining", "open", "moving"]


@dataclass(slots=True, kw_only=True)
class Order:
    """A move that was decided on."""

    id: str
    """Its name."""
    move: Move
    """Which worker is to do what."""
    state: OrderState = "draining"
    """How far it is."""
    since: float = 0.0
    """Since when it is so, or was last heard of."""

    def as_dict(self) -> dict[str, str | None]:
        """Return it as JSON has it."""
        move = self.move
        return {
            "id": self.id,
            "worker": move.worker,
            "before": move.before,
            "after": move.after,
            "state": self.state,
            "reason": move.reason,
        }
