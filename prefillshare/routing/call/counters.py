"""Everything the router counts, in one place."""

from dataclasses import asdict, dataclass


@dataclass(slots=True, kw_only=True)
class Counters:
    """Numbers since the router started."""

    calls: int = 0
    """Calls taken on."""
    answered: int = 0
    """Calls whose answer came from a decode worker, errors about the call itself included."""
    failed: int = 0
    """Calls that ended with an error of the router or a worker."""
    aborted: int = 0
    """Calls that the client left."""
    refused: int = 0
    """Calls answered 429."""
    retries: int = 0
    """Further attempts after a worker failed."""
    prompt_bytes: int = 0
    """Canonical prompt bytes sent to prefill workers."""
    matched_bytes: int = 0
    """Of these, bytes that the chosen prefill worker held according to the index."""

    def as_dict(self) -> dict[str, int]:
        """Return the numbers by name."""
        return asdict(self)
