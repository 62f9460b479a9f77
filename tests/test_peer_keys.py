"""Parts of one deployment know each other, and files that hold secrets are looked at before they are believed."""

import contextlib
import os
from pathlib import Path

import pytest
import zmq

from prefillshare.errors import ConfigError
from prefillshare.peer_keys import PeerKeys, judge_private, read_private, secure_client, secure_listener

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


def test_a_private_file_is_read(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("  secret \n")
    file.chmod(0o600)
    assert read_private(file, "--admin-key-file") == "secret"


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        ("secret\n", 0o640, "can be used by others (mode 640): chown it to you and chmod 600"),
        ("secret\n", 0o604, "mode 604"),
        ("", 0o600, "does not hold one line"),
        ("a\nb\n", 0o600, "does not hold one line"),
    ],
)
def test_a_file_that_others_read_or_that_holds_no_key_is_refused(tmp_path: Path, text, mode, reason):
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(ConfigError) as error:
        read_private(file, "--admin-key-file")
    assert reason in str(error.value)
    assert str(file) in str(error.value)


def test_what_is_no_file_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_private(tmp_path / "none", "--admin-key-file")
    with pytest.raises(ConfigError, match="does not hold one line"):
        read_private(tmp_path, "--admin-key-file")


def test_a_file_of_another_user_is_not_ours(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("secret")
    found = list(file.stat())
    found[0], found[4] = 0o100600, os.getuid() + 1
    assert "belongs to user" in (judge_private(os.stat_result(found)) or "")
