"""What the patches say of the installed SGLang, asked of them as a program: it does not import SGLang either."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from prefillshare.contract import PATCHES_PROGRAM
from prefillshare.errors import PrefillShareError

REPORT_COMMAND = f"python -m {PATCHES_PROGRAM} report"
_TIMEOUT_S = 180.0
_GOOD_STATES = frozenset(("ready", "applied", "as expected"))
_MAX_REASON = 200


class ReportError(PrefillShareError):
    """The patches gave no report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchReport:
    """Whether the patches fit."""

    installed: str | None
    """Version of the installed SGLang; None when there is none."""
    pinned: str
    """The version that the patches are made for."""
    num_symbols: int
    """Symbols of SGLang that the patches change, look up or rely on."""
    misfits: tuple[str, ...]
    """Those of them whose source text differs or is gone, with which of the two."""


def read_patch_report() -> PatchReport:
    """Return what the patches report.

    Raises: ReportError with the reason that they gave instead.
    """
    command = [sys.executable, "-m", PATCHES_PROGRAM, "report", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ReportError(f"no answer within {_TIMEOUT_S:g} s: the machine is busy, try again later") from None
    except OSError as error:
        raise ReportError(str(error)) from None
    try:
        return _read(json.loads(done.stdout))
    except (ValueError, TypeError, LookupError):
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise ReportError(lines[-1][:_MAX_REASON]) from None


def _read(content: dict[str, Any]) -> PatchReport:
    rows = content["patches"]
    return PatchReport(
        installed=content["sglang"],
        pinned=content["pinned"],
        num_symbols=len(rows),
        misfits=tuple(f"{row['target']}: {row['state']}" for row in rows if row["state"] not in _GOOD_STATES),
    )
