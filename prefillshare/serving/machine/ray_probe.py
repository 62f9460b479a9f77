"""Whether a Ray cluster takes those who have no token, and whether it takes this user: its head is asked."""

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from prefillshare.contract import STRANGER_PROGRAM

_TIMEOUT_S = 40.0
_OF_TOKENS = "RAY_AUTH_"

Answer = Literal["taken", "refused"] | None
"""None: the head did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayDoor:
    """What became of two calls."""

    stranger: Answer
    """Of one without a token."""
    own: Answer
    """Of one with what the environment says."""


def try_door(address: str, environment: Mapping[str, str]) -> RayDoor | None:
    """Return what the cluster at `address` makes of callers; None where that cannot be asked from here."""
    if importlib.util.find_spec("ray") is None:
        return None
    without = {name: value for name, value in environment.items() if not name.startswith(_OF_TOKENS)}
    with ThreadPoolExecutor(2) as pool:
        # Ray takes a token from the user's home by itself, were it not told otherwise.
        stranger = pool.submit(_ask, address, {**without, "RAY_AUTH_MODE": "disabled"})
        own = pool.submit(_ask, address, environment)
        return RayDoor(stranger=stranger.result(), own=own.result())


def _ask(address: str, environment: Mapping[str, str]) -> Answer:
    command = [sys.executable, "-W", "ignore", "-m", STRANGER_PROGRAM, address]
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = done.stdout.strip()
    return "taken" if said == "taken" else "refused" if said == "refused" else None
