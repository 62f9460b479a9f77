"""A peer as its host sees it: for how long one that failed is left alone."""

import pytest

from prefillshare.store.remote import peers
from prefillshare.store.remote.peers import Peer
from prefillshare.store.remote.secret import Secret


class Clock:
    """What `time` is to the module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(peers, "time", made)
    return made


def _pause_s(peer: Peer, clock: Clock) -> float:
    """For how many seconds it is not asked from now on."""
    began = clock.now
    while not peer.is_worth_asking:
        clock.now += 0.5
    return clock.now - began


def test_what_fails_together_is_one_failure(clock: Clock) -> None:
    """A peer that stands still for a moment fails all that is asked of it then, and would be away for a minute."""
    peer = Peer("http://127.0.0.1:9", Secret(b"s" * 32))
    for _ in range(8):
        peer.fail()
    assert _pause_s(peer, clock) == 1.0


def test_a_peer_that_fails_again_is_left_alone_for_longer_until_it_does_what_it_should(clock: Clock) -> None:
    peer = Peer("http://127.0.0.1:9", Secret(b"s" * 32))
    pauses = []
    for _ in range(8):
        peer.fail()
        pauses.append(_pause_s(peer, clock))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    peer.succeed()
    peer.fail()
    assert _pause_s(peer, clock) == 1.0
