"""Live, stale, paused, disconnected: in words, since not everybody sees colours."""

from prefillshare_tui.link import Link
from prefillshare_tui.parts import as_text


def badge(link: Link, now: float, *, is_paused: bool = False) -> str:
    return as_text(link.badge(now, is_paused=is_paused))


def test_the_states_of_a_connection() -> None:
    link = Link(interval_s=1.0)
    assert badge(link, 0.0) == "○ CONNECTING"
    link = link.received(10.0, is_new=True)
    assert badge(link, 12.0) == "● LIVE"
    assert link.trouble(12.0) == ""
    assert badge(link, 12.0, is_paused=True) == "‖ PAUSED"
    assert badge(link, 17.0) == "◐ STALE 7 s"
    assert link.trouble(17.0).startswith("No new state for 7 s")
    link = link.failed("no server answers at X", retry_at=22.0)
    assert badge(link, 20.0) == "✖ DISCONNECTED"
    assert badge(link, 20.0, is_paused=True) == "✖ DISCONNECTED"
    assert link.trouble(20.0) == ("No server answers at X. What you see is 10 s old. Trying again in 2 s (r: now).")
    assert badge(link.received(21.0, is_new=True), 21.0) == "● LIVE"


def test_a_server_that_repeats_itself_is_stale() -> None:
    link = Link(interval_s=1.0).received(10.0, is_new=True).received(18.0, is_new=False)
    assert badge(link, 18.0) == "◐ STALE 8 s"


def test_a_long_interval_is_not_stale_at_once() -> None:
    link = Link(interval_s=10.0).received(0.0, is_new=True)
    assert badge(link, 25.0) == "● LIVE"
    assert badge(link, 31.0) == "◐ STALE 31 s"
