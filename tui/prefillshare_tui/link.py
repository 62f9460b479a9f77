"""How the dashboard stands with the deployment: connecting, live, stale or disconnected."""

from dataclasses import dataclass, replace
from typing import Literal

from prefillshare_tui import words
from prefillshare_tui.parts import Line, line

LinkState = Literal["connecting", "live", "stale", "disconnected"]
_STALE_INTERVALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What is known of the connection. Times are those of this machine's monotonic clock, in seconds."""

    interval_s: float
    """How often snapshots are asked for."""
    fresh_at: float | None = None
    """When the newest snapshot came; None before the first one."""
    error: str = ""
    """Why the latest attempt failed; empty after one that did not."""
    retry_at: float | None = None
    """When the next attempt is due, after one that failed."""

    def received(self, now: float, *, is_new: bool) -> "Link":
        """The link after an answer; one that says nothing new does not make it fresh."""
        return replace(self, fresh_at=now if is_new else self.fresh_at, error="", retry_at=None)

    def failed(self, error: str, retry_at: float) -> "Link":
        """The link after a failure."""
        return replace(self, error=error, retry_at=retry_at)

    def state(self, now: float) -> LinkState:
        """Return the state to draw."""
        if self.error:
            return "disconnected"
        if self.fresh_at is None:
            return "connecting"
        return "stale" if now - self.fresh_at > max(_STALE_INTERVALS * self.interval_s, 3.0) else "live"

    def badge(self, now: float, *, is_paused: bool) -> Line:
        """The state in a word, with a glyph, so that it needs no colour."""
        state, age = self.state(now), "" if self.fresh_at is None else words.span(now - self.fresh_at)
        if state == "disconnected":
            return line(("✖ DISCONNECTED", "bad"))
        if is_paused:
            return line(("‖ PAUSED", "warn"))
        if state == "stale":
            return line((f"◐ STALE {age}", "warn"))
        return line(("● LIVE", "good")) if state == "live" else line(("○ CONNECTING", "warn"))

    def trouble(self, now: float) -> str:
        """A sentence on what is wrong; empty while all is well."""
        if self.error:
            wait = (
                ""
                if self.retry_at is None
                else f" Trying again in {words.span(max(0.0, self.retry_at - now))} (r: now)."
            )
            shown = "" if self.fresh_at is None else f" What you see is {words.span(now - self.fresh_at)} old."
            start = self.error if self.error.startswith("http") else self.error[:1].upper() + self.error[1:]
            return f"{start}.{shown}{wait}"
        if self.state(now) == "stale" and self.fresh_at is not None:
            return f"No new state for {words.span(now - self.fresh_at)}: the server is slow or hangs. Still waiting."
        return ""
