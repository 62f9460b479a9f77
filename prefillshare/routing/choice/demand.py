"""What a call wants of the workers: all that the choice of them depends on."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Demand:
    """A module, the prompts that it is to read, and who asks."""

    module: str
    """Decode module that answers; the prefill module for a call that asks for no token."""
    is_prefill_only: bool
    """Whether no token is asked for: a prefill worker answers alone."""
    prompts: tuple[bytes, ...]
    """Canonical prompts, for the prefix index; of a large batch the first ones."""
    session: str | None
    """Session that the client named."""

    @property
    def asked(self) -> str:
        """Name that the client knows what it asks by."""
        return self.module

    @property
    def prompt_bytes(self) -> int:
        """Length of `prompts`."""
        return sum(map(len, self.prompts))

    @property
    def indexed_share(self) -> float:
        """Part of all prompts that `prompts` has: 1 for all of them."""
        return 1.0
