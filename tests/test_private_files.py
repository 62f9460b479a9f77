"""Files of secrets: who may own and read them, the same for everybody who reads one and for `doctor`."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.private_files import judge_private, read_private
from prefillshare.routing.settings import load_settings
from prefillshare.serving.machine.exposure import check_secrets
from prefillshare.store.remote.secret import read_secret

USER = os.getuid()


def _check_as_doctor(file: Path) -> None:
    finding = check_secrets([("secret_file", file)])
    if finding.state == "problem":
        raise ConfigError(f"{finding.value}: {finding.fix}")


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "keys": ("secret", lambda file: read_private(file, "--admin-key-file")),
    "store": ("s" * 32, read_secret),
    "router": ('{"base_model": "b", "port": 1, "workers": []}', load_settings),
    "doctor": ("secret", _check_as_doctor),
}


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
    with pytest.raises(ConfigError, match=r"cannot be read.*openssl rand -hex 24 >"):
        read_private(tmp_path / "none", "--admin-key-file")
    with pytest.raises(ConfigError, match="does not hold one line"):
        read_private(tmp_path, "--admin-key-file")


@pytest.mark.parametrize(
    ("owner", "mode", "problem"),
    [
        (USER, 0o600, None),
        (USER, 0o400, None),
        (0, 0o400, None),
        (USER + 1, 0o600, f"belongs to user {USER + 1}, not to {USER}"),
        (USER, 0o640, "can be used by others (mode 640)"),
        (0, 0o444, "can be used by others (mode 444)"),
        (USER, 0o602, "can be used by others (mode 602)"),
    ],
)
def test_a_private_file_is_the_user_s_or_root_s_and_nobody_else_s(
    tmp_path: Path, owner: int, mode: int, problem: str | None
) -> None:
    found = list(tmp_path.stat())
    found[0], found[4] = 0o100000 | mode, owner
    assert judge_private(os.stat_result(found)) == problem


@pytest.mark.parametrize("reader", READERS)
def test_whoever_reads_one_judges_alike(tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, read = READERS[reader]
    file = tmp_path / "secret"
    file.write_text(text)
    file.chmod(0o600)
    read(file)
    file.chmod(0o604)
    with pytest.raises(PrefillShareError, match=r"can be used by others \(mode 604\).*chmod 600"):
        read(file)
    file.chmod(0o600)
    if file.stat().st_uid == 0:
        os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: USER + 1)
    with pytest.raises(PrefillShareError, match=r"belongs to user .* not to .*chown"):
        read(file)
