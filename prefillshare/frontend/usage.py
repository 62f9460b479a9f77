"""What a generation cost."""

from dataclasses import dataclass
from typing import Any

from prefillshare.errors import PrefillShareError
from prefillshare.frontend.endpoint import MODULE_KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one generation."""

    module: str
    """Decode module that answered."""
    prompt_tokens: int
    """Length of the prompt."""
    cached_tokens: int
    """Of these, tokens that were there already, whichever module's call had them computed."""
    completion_tokens: int
    """Generated tokens."""

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that were computed for this call."""
        return self.prompt_tokens - self.cached_tokens


def usage(state: Any, name: str) -> Usage:
    """Return what the generation `name` of `state` cost, waiting for its end.

    Raises: PrefillShareError when `state` has no such generation, or it failed.
    """
    meta_info = state.get_meta_info(name)
    if meta_info is None or MODULE_KEY not in meta_info:
        reason = state.error() or "there is none of that name, it was a select, or a fork's"
        raise PrefillShareError(f"no generation {name!r} with usage in this state ({reason})")
    return Usage(
        module=meta_info[MODULE_KEY],
        prompt_tokens=meta_info["prompt_tokens"],
        cached_tokens=meta_info["cached_tokens"],
        completion_tokens=meta_info["completion_tokens"],
    )
