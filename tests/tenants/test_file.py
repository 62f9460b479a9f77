"""The tenants' file: written by the command, read again while it is used, refused when it cannot be used."""

import asyncio
import errno
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prefillshare.errors import ConfigError
from prefillshare.tenants import file as file_module
from prefillshare.tenants import roster as roster_module
from prefillshare.tenants.file import add_key, read_tenants, remove
from prefillshare.tenants.keys import hash_key
from prefillshare.tenants.roster import Roster
from tests.routing.workers import until

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


def test_a_tenant_is_added_to_an_empty_list_and_one_with_others_is_named(path: Path) -> None:
    write(path, "# nobody yet\ntenant = []\n")
    add_key(path, "acme")
    assert [tenant.name for tenant in read_tenants(path).tenant] == ["acme"]
    assert path.read_text().startswith("# nobody yet\n")
    write(path, f'tenant = [{{name = "acme", salt = "{SALT}"}}]\n')
    add_key(path, "acme")
    before = path.read_text()
    with pytest.raises(ConfigError, match=r"in one list: write each as a \[\[tenant\]\] table"):
        add_key(path, "other")
    assert path.read_text() == before


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


def test_a_file_that_cannot_be_read_for_a_moment_is_read_when_it_can_be(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What kept it from being read need not change the file: nothing else would say that a key was revoked."""
    key = add_key(path, "acme")
    roster = Roster(path)
    remove(path, "acme")
    # Long ago: within a tick of its clock, a file is read again anyway.
    monkeypatch.setattr(roster_module, "_TICK_NS", 0)
    with monkeypatch.context() as without_descriptors:
        without_descriptors.setattr(file_module, "_open_at_once", _refuse_to_open)
        for _ in range(3):
            roster.look()
            assert "Too many open files" in (roster.problem or "")
    assert roster.find(key) is not None
    assert len(caplog.records) == 1
    roster.look()
    assert roster.find(key) is None
    assert roster.problem is None


def _refuse_to_open(path: str, flags: int) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


HOSTILE = {
    "deep": "a = " + "[" * 5000,
    "digits": "a = " + "9" * 5000,
    "hexadecimal": f'[[tenant]]\nname = "a"\nsalt = "{SALT}"\ntokens_per_min = 0x{"f" * 6000}\n',
    "beyond a float": f'[[tenant]]\nname = "a"\nsalt = "{SALT}"\ntokens_per_min = {10**400}\n',
    "a rate beyond a float": f'[[tenant]]\nname = "a"\nsalt = "{SALT}"\ncalls_per_s = {10**400}\n',
    "hardly a rate": f'[[tenant]]\nname = "a"\nsalt = "{SALT}"\ncalls_per_s = 1e-320\n',
    "not a number": f'[[tenant]]\nname = "a"\nsalt = "{SALT}"\ncalls_per_s = nan\n',
    "no text": "name = '\udcff'",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_text_whatsoever_ends_the_looking_and_a_revoked_key_is_seen_after_it(path: Path, text: str) -> None:
    first, second = add_key(path, "acme"), add_key(path, "other")
    roster, good = Roster(path), path.read_text()

    async def look() -> None:
        looking = asyncio.create_task(roster.keep_looking())
        path.write_bytes(text.encode(errors="surrogateescape"))
        await until(lambda: roster.problem is not None)
        assert roster.find(first) is not None
        path.write_text(good)
        remove(path, "acme")
        await until(lambda: roster.find(first) is None)
        assert roster.problem is None
        assert not looking.done()
        looking.cancel()

    asyncio.run(look())
    assert roster.find(second) is not None


def test_a_change_that_looks_like_none_is_seen(path: Path) -> None:
    """Written in place, of one size, with the time of before: only what nobody can set tells it apart."""
    key = add_key(path, "acme")
    roster, before = Roster(path), path.stat()
    time.sleep(0.2)
    roster.look()
    path.write_text(path.read_text().replace(hash_key(key), hash_key("another key")))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)
    roster.look()
    assert roster.find(key) is None
    assert roster.find("another key") is not None


def test_a_change_within_one_tick_of_the_clock_of_files_is_seen(path: Path) -> None:
    key = add_key(path, "acme")
    roster = Roster(path)  # as new as the file
    path.write_text(path.read_text().replace(hash_key(key), hash_key("another key")))
    roster.look()
    assert roster.find(key) is None


def test_what_is_no_file_is_refused_at_once(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="is no file"):
        read_tenants(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tenants(tmp_path)


def test_keys_that_are_made_at_one_time_are_all_there(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda number: add_key(path, f"tenant-{number % 4}"), range(32)))
    roster = Roster(path)
    assert all(roster.find(key) is not None for key in keys)
    assert list(path.parent.iterdir()) == [path]


def test_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(path.name)
    key = add_key(link, "acme")
    assert link.is_symlink()
    assert Roster(path).find(key) is not None


def test_where_there_is_no_room_everything_stays_as_it_was(path: Path) -> None:
    key = add_key(path, "acme")
    before = path.read_bytes()
    code = "import sys; from pathlib import Path; from prefillshare.tenants.file import add_key\n"
    code += "from prefillshare.errors import ConfigError\n"
    code += "try: add_key(Path(sys.argv[1]), 'other')\nexcept ConfigError as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        # A file may have no more bytes than this one has: what is longer finds no room.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), len(before))),
    )
    assert "cannot be written (File too large) and is as before" in done.stdout, done.stderr
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert Roster(path).find(key) is not None


def test_a_key_of_any_bytes_is_known_by_its_hash(path: Path) -> None:
    keys = ["é" * 8, b"\xff\xfe\x80key".decode(errors="surrogateescape"), "a b\tc", "?" * 16]
    write(
        path,
        "".join(
            f'[[tenant]]\nname = "t{place}"\nsalt = "{SALT}"\nkeys = ["{hash_key(key)}"]\n'
            for place, key in enumerate(keys)
        ),
    )
    roster = Roster(path)
    for place, key in enumerate(keys):
        account = roster.find(key)
        assert account is not None
        assert account.name == f"t{place}"
    assert roster.find("e" * 8) is None
