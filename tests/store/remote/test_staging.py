"""Regions that are lent to peers, over an agent of NIXL that does what it must not."""

import pytest

from prefillshare.store.remote import link
from prefillshare.store.remote.staging import NUM_REGIONS, Staging


class FailingAgent:
    """Fails once, as NIXL may when a peer has gone, and then says what peers have said."""

    name = "agent"

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self._has_failed = False

    def get_agent_metadata(self) -> bytes:
        return b""

    def get_new_notifs(self) -> dict[str, list[bytes]]:
        if not self._has_failed:
            self._has_failed = True
            raise RuntimeError("NIXL_ERR_REMOTE_DISCONNECT")
        said, self.said = self.said, []
        return {"peer": said}


def test_an_error_of_the_network_costs_no_region_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = FailingAgent()
    monkeypatch.setattr(link, "make_agent", lambda memory: agent)
    staging = Staging()
    lent = [staging.lend(60) for _ in range(NUM_REGIONS)]
    agent.said = [lease for lease, _ in filter(None, lent)]
    last = staging.lend(60)
    assert last is not None
    staging.take_back(last[0])  # what has nothing out turns nothing
