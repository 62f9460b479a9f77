"""By what the scheduler knows a choice, and the call that follows it: two of a request's ``custom_params``.

Callers cannot set them: what they give under these names is left out.
"""

from __future__ import annotations

from typing import Any

CHOICE_PARAMETER = "prefillshare_choice"
"""In a choice: its id."""
CHOSEN_PARAMETER = "prefillshare_chosen"
"""In the call that follows: the id of its choice."""
OWN_PARAMETERS = (CHOICE_PARAMETER, CHOSEN_PARAMETER)

_ORIGIN = "choice:"


def read_mark(custom_params: Any, name: str) -> str | None:
    """The id under ``name``, if there is one."""
    given = custom_params.get(name) if isinstance(custom_params, dict) else None
    return given if isinstance(given, str) else None


def origin_of(choice: str) -> str:
    """Who has computed what a choice leaves in the tree, until its call says whom it was for."""
    return f"{_ORIGIN}{choice}"
