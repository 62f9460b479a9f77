"""What is written down while a system is measured."""

from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict


class Fidelity(TypedDict):
    """Answers beside those of plain transformers + peft."""

    compared: int
    """Answers that were compared."""
    exact: int
    """Of these, answers that are equal to the last token."""
    token_agreement: float | None
    """Share of equal tokens up to the first difference; None where nothing was compared."""


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """One call; times are seconds after the start of the run."""

    session: int
    """Number of its session."""
    step: int
    """Its place in the session."""
    module: str
    """Module that was asked."""
    due_s: float
    """When it had to be sent: the session's arrival, or the end of the call before."""
    first_s: float | None = None
    """When its first token came."""
    end_s: float | None = None
    """When its last token came."""
    gaps_s: list[float] = field(default_factory=list)
    """Seconds between tokens; those of one piece share its gap."""
    prompt_tokens: int = 0
    """Tokens of the prompt."""
    cached_tokens: int | None = None
    """Prompt tokens that the prefilling engine did not compute; None when it did not say."""
    handoff_tokens: int | None = None
    """Prompt tokens whose KV was moved to a decode worker; None where nothing is moved or nobody says."""
    handoff_bytes: int | None = None
    """Bytes of that KV."""
    output: list[int] = field(default_factory=list)
    """Generated tokens."""
    error: str | None = None
    """Why it failed; None for an answer of full length."""

    @property
    def latency_s(self) -> float | None:
        """End-to-end seconds; None for a call that failed."""
        return None if self.error or self.end_s is None else self.end_s - self.due_s

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token; None for a call that failed."""
        return None if self.error or self.first_s is None else self.first_s - self.due_s


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSample:
    """KV in use at one moment, over all engines of a system."""

    at_s: float
    """Seconds after the start of the run."""
    tokens: int
    """Tokens of KV that running requests hold; what the prefix cache could drop at once does not count."""


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """One system under one load, once."""

    calls: list[CallRecord]
    """Every call that was sent."""
    wall_s: float
    """Seconds from the start to the last answer."""
    cut_s: float | None = None
    """Seconds after which the run was cut; None for one that came to its end."""
    kv: list[KvSample] = field(default_factory=list)
    """KV in use over time."""
    prefilled_tokens: int | None = None
    """Prompt tokens that the engines computed; None where they do not say."""
    eager_tokens: int | None = None
    """Of these, tokens of answers that were computed before a call asked for them; None where they do not say."""
    memory_gb: float | None = None
    """Weights, KV pools and graphs of all engines; None where they do not say."""
    fidelity: Fidelity | None = None
    """How many sampled answers equal the reference; None where nothing was compared."""

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "RunRecord":
        """The record that `as_dict` wrote."""
        calls = [CallRecord(**call) for call in content["calls"]]
        kv = [KvSample(**sample) for sample in content["kv"]]
        return cls(**{**content, "calls": calls, "kv": kv})
