"""Parts of one deployment know each other, and files that hold secrets are looked at before they are believed."""

import contextlib

import pytest
import zmq

from prefillshare.peer_keys import PeerKeys, secure_client, secure_listener

OURS, THEIRS = PeerKeys.of_admin_key("ours"), PeerKeys.of_admin_key("theirs")
WAIT_MS = 5000
SILENCE_MS = 300


def test_the_admin_key_is_not_told():
    assert "ours" not in OURS.secret
    assert len({OURS.secret, OURS.token, THEIRS.token, *OURS.curve_pair, *THEIRS.curve_pair}) == 7
    assert PeerKeys.of_admin_key("ours") == OURS


@pytest.mark.parametrize(
    "shown", [None, "", "Bearer", "Bearer ", f"Bearer {THEIRS.token}", OURS.token, "Bearer \ud800"]
)
def test_nothing_but_the_token_is_taken(shown):
    assert not OURS.is_token(shown)
    assert OURS.is_token(f"Bearer {OURS.token}")


@pytest.mark.parametrize("client", ["none", "theirs", "by context"])
def test_a_listener_hears_its_deployment_only(client):
    with zmq.Context() as context:
        secure_listener(context, OURS)
        listener = context.socket(zmq.PULL)
        port = listener.bind_to_random_port("tcp://127.0.0.1")
        secure_client(context, OURS)  # what the context makes from now on
        with zmq.Context() as elsewhere:
            stranger = (context if client == "by context" else elsewhere).socket(zmq.PUSH)
            if client == "theirs":
                secure_client(stranger, THEIRS)
            friend = context.socket(zmq.PUSH)
            for socket in (stranger, friend):
                socket.set(zmq.LINGER, 0)
                socket.set(zmq.SNDTIMEO, WAIT_MS if client == "by context" else SILENCE_MS)
                socket.connect(f"tcp://127.0.0.1:{port}")
            if client == "by context":
                stranger.send(b"known")
                assert listener.poll(WAIT_MS)
                assert listener.recv() == b"known"
            else:
                with contextlib.suppress(zmq.Again):
                    stranger.send(b"unknown")
                assert not listener.poll(SILENCE_MS)
            friend.set(zmq.SNDTIMEO, WAIT_MS)
            friend.send(b"hello")
            assert listener.poll(WAIT_MS)
            assert listener.recv() == b"hello"
            for socket in (stranger, friend, listener):
                socket.close()
