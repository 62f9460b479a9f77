"""What a call says that may decide which module answers it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def _says_nothing() -> str:
    return ""


def has_none(name: str) -> None:
    """Give no header: the call has none, or nobody asks."""


Probabilities = Mapping[str, float]
"""How likely each label of a classifier is; they add up to 1."""


def describe_probabilities(found: Probabilities) -> str:
    """Return them as text, the likeliest first."""
    ranked = sorted(found.items(), key=lambda item: -item[1])
    return ", ".join(f"{label}={likely:.4f}" for label, likely in ranked)


Judge = Callable[[Sequence[object]], Probabilities]
"""Says of what the prefill module makes of a call's prompts how likely each label is."""


def ask_judge(judge: Judge, states: Sequence[object]) -> Probabilities:
    """Ask, and tell nobody else."""
    return judge(states)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call, as far as names go; what only rules look at is read when one does."""

    name: str = ""
    """What stands in "model"."""
    session: str | None = None
    """Session that the call belongs to; None when it names none."""
    says: Callable[[], str] = _says_nothing
    """Return what the user says last."""
    header: Callable[[str], str | None] = has_none
    """Return the value of a header; None when the call has none of that name."""
    states: Sequence[object] = ()
    """What the prefill module makes of each prompt, for classifiers; empty until somebody has asked it."""
    classify: Callable[[Judge, Sequence[object]], Probabilities] = ask_judge
    """Ask an alias's classifier about `states`; whoever wants to know what it says puts a function of its own here."""


def last_words(body: Mapping[str, Any]) -> str:
    """Return what the user says last in a call's body, of any of the interfaces; empty for token ids."""
    for member in ("messages", "input"):
        if isinstance(turns := body.get(member), list):
            users = (turn for turn in reversed(turns) if isinstance(turn, Mapping) and turn.get("role") == "user")
            # Anthropic's clients give results of tools as turns of the user's, which say nothing.
            return next((text for turn in users if (text := _text_of(turn.get("content")))), "")
    given = next((body[member] for member in ("input", "prompt", "text") if body.get(member) is not None), "")
    return _text_of(given)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, str | Mapping))
    return "\n".join(text for text in texts if isinstance(text, str))
