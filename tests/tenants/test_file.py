"""The tenants' file: written by the command, read again while it is used, refused when it cannot be used."""

import os
from pathlib import Path

import pytest

from prefillshare.errors import ConfigError
from prefillshare.tenants.file import add_key, read_tenants, remove
from prefillshare.tenants.keys import hash_key
from prefillshare.tenants.roster import Roster

SALT = "0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tenants.toml"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def test_a_new_tenant_has_a_key_that_the_file_does_not_tell(path: Path) -> None:
    key = add_key(path, "acme")
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    (tenant,) = read_tenants(path).tenant
    assert (tenant.name, tenant.keys) == ("acme", (hash_key(key),))


def test_a_second_key_stands_beside_the_first_until_that_is_revoked(path: Path) -> None:
    first, second = add_key(path, "acme"), add_key(path, "acme")
    roster = Roster(path)
    salt = read_tenants(path).tenant[0].salt
    assert roster.find(first) is roster.find(second) is not None
    remove(path, "acme", hash_key(first).removeprefix("sha256:")[:8])
    roster.look()
    assert roster.find(first) is None
    assert roster.find(second) is not None
    assert read_tenants(path).tenant[0].salt == salt


def test_the_last_tenant_goes_and_another_one_comes(path: Path) -> None:
    add_key(path, "acme")
    remove(path, "acme")
    assert read_tenants(path).tenant == ()
    add_key(path, "other")
    assert "[[tenant]]" in path.read_text()
    with pytest.raises(ConfigError, match=r"there are: other"):
        remove(path, "acme")


def test_what_the_owner_wrote_around_it_stays(path: Path) -> None:
    add_key(path, "acme")
    write(path, path.read_text() + "calls_per_s = 2.5  # agreed in May\n")
    add_key(path, "other")
    remove(path, "other")
    assert "# agreed in May" in path.read_text()
    assert read_tenants(path).tenant[0].calls_per_s == 2.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[tenant]\n", "not valid TOML"),
        ('[[tenant]]\nname = "a/b"\n', "cannot be a tenant's"),
        ('[[tenant]]\nname = "a"\nkeys = ["ps-secret"]\n', "no hash"),
        ('[[tenant]]\nname = "a"\nkeys = "ps-secret"\n', "is not a list of texts"),
        ('[[tenant]]\nname = "a"\nsalt = "short"\n', "salt of 5 letters"),
        (f'[[tenant]]\nname = "a"\nsalt = "{SALT}"\ncalls_per_s = 0\n', "calls_per_s is 0"),
        (f'[[tenant]]\nname = "a"\nsalt = "{SALT}"\nconcurrent = 0\n', "concurrent is 0"),
        (f'[[tenant]]\nname = "a"\nsalt = "{SALT}"\ncall_per_s = 1\n', "'calls_per_s'"),
        (f'[[tenant]]\nname = "a"\nsalt = "{SALT}"\n' * 2, "'a' is there 2 times"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_what_to_do(path: Path, text: str, said: str) -> None:
    write(path, text)
    with pytest.raises(ConfigError, match=r"tenants\.toml") as caught:
        read_tenants(path)
    assert said in str(caught.value)
    assert "ps-secret" not in str(caught.value)


def test_a_file_that_others_can_read_is_refused(path: Path) -> None:
    write(path, "", 0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_tenants(path)


def test_a_file_that_went_bad_changes_nothing_and_is_told_of_until_it_is_good(path: Path) -> None:
    key = add_key(path, "acme")
    roster, good = Roster(path), path.read_text()
    account = roster.find(key)
    assert account is not None
    account.note_prompt(10, 4)
    for change in (lambda: write(path, "nonsense"), lambda: path.chmod(0o604), path.unlink):
        change()
        roster.look()
        assert roster.find(key) is account
        assert "the tenants of before go on" in (roster.problem or "")
    write(path, good.replace("acme", "acme") + "tokens_per_min = 5\n")
    roster.look()
    assert roster.problem is None
    assert roster.find(key) is account
    assert account.stats.prompt_tokens == 10
    os.utime(path)
    roster.look()
    assert account.tenant.tokens_per_min == 5
