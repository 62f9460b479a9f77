"""The `[responses]` table of a deployment file: how much of what `/v1/responses` answered is remembered."""

from dataclasses import dataclass

from prefillshare.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """Limits of what is kept in memory; the oldest responses are forgotten first."""

    max_count: int = 10_000
    """Responses that are kept; 0 keeps none, as if every call said `store = false`."""
    max_bytes: int = 256 * 1024 * 1024
    """Memory for them, their conversations included; a response that is larger alone is not kept."""
    max_age_s: float = 86_400.0
    """Time after which a response is forgotten, in seconds."""
    max_background: int = 64
    """Responses that are computed in the background at a time; further ones are answered 429. A tenant has at
    most as many as it leaves to the others."""

    def __post_init__(self) -> None:
        for name in ("max_count", "max_bytes", "max_background"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"{name} is {value}: it must be at least 0")
        if not 0 < self.max_age_s < float("inf"):
            raise ConfigError(f"max_age_s is {self.max_age_s}: it must be more than 0, and finite")
