"""What is counted of each tenant, for the state document and for Prometheus."""

from dataclasses import dataclass, field
from typing import Literal, cast

from prefillshare.observe.document import REFUSAL_REASONS, TenantCounters, TenantRefusals, part_of

RefusalReason = Literal["rate", "tokens", "concurrent", "module", "door"]
"""Too many calls, too many tokens, too many calls at a time; a module, or a door, that is not the tenant's."""


@dataclass(slots=True, kw_only=True)
class TenantStats:
    """Numbers of one tenant since the process started."""

    calls: int = 0
    """Calls that began; those that were refused are not among them."""
    prompt_tokens: int = 0
    """Prompt tokens of calls whose prefill is done."""
    cached_tokens: int = 0
    """Of these, tokens that were cached."""
    generated_tokens: int = 0
    """Tokens of answers."""
    refused: dict[RefusalReason, int] = field(default_factory=lambda: dict.fromkeys(REFUSAL_REASONS, 0))
    """Calls that were refused, by the reason."""

    def counters(self) -> TenantCounters:
        """Return the counters by name."""
        return part_of(TenantCounters, self)

    def refusals(self) -> TenantRefusals:
        """Return the refusals by reason."""
        return cast(TenantRefusals, dict(self.refused))
