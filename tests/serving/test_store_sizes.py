"""What [store] becomes: sizes, and settings that reach the engines as they were planned."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import plan
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.store import plan_store
from prefillshare.store import KvStore, StoreSettings
from tests.store.stores import identity
from tests.support.stores import stored_agents


def settings_of(file: Path) -> StoreSettings:
    settings = plan_store(resolve(load_deployment(file)))
    assert settings is not None
    return settings


def test_sizes_that_are_set_are_taken_and_others_are_kept_from_launch_to_launch(tmp_path: Path) -> None:
    chosen = settings_of(stored_agents(tmp_path, f'memory = "64 MiB"\npath = "{tmp_path}"\ndisk = "80 MiB"\n'))
    assert (chosen.memory_bytes, chosen.disk_bytes) == (64 << 20, 80 << 20)
    assert (chosen.keeps_memory_size, chosen.keeps_disk_size) == (False, False)
    free = settings_of(stored_agents(tmp_path, f'path = "{tmp_path}"\n'))
    assert (free.keeps_memory_size, free.keeps_disk_size) == (True, True)


def test_an_engine_is_told_exactly_what_was_planned(tmp_path: Path) -> None:
    file = stored_agents(tmp_path, f'memory = "64 MiB"\npath = "{tmp_path}"\n')
    (command,) = plan(resolve(load_deployment(file)), LaunchOptions()).values()
    argv = list(command.argv)
    told = json.loads(argv[argv.index("--hicache-storage-backend-extra-config") + 1])["store"]
    again = StoreSettings(**{**told, "directory": Path(told["directory"])})
    planned = settings_of(file)
    # What nobody set is a share of what is free at that moment.
    assert again.disk_bytes is not None
    assert planned.disk_bytes is not None
    assert abs(again.disk_bytes - planned.disk_bytes) < 1 << 30
    for name in ("name", "memory_bytes", "directory", "codec", "threads", "keeps_memory_size", "keeps_disk_size"):
        assert getattr(again, name) == getattr(planned, name)


def test_more_than_there_is_is_refused_with_the_number_that_fits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'set memory = "[0-9]+ MiB" or less'):
        settings_of(stored_agents(tmp_path, 'memory = "900000 GiB"\n'))
    with pytest.raises(ConfigError, match=r'set disk = "[0-9]+ MiB" or less'):
        settings_of(stored_agents(tmp_path, f'memory = "64 MiB"\npath = "{tmp_path}"\ndisk = "900000 GiB"\n'))


def test_a_disk_tier_that_is_there_is_room_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = stored_agents(tmp_path, f'memory = "64 MiB"\npath = "{tmp_path}"\ndisk = "80 MiB"\n')
    (tmp_path / "memory").mkdir()
    deployment = resolve(load_deployment(file))
    own = identity(
        prefill_fingerprint=deployment.fingerprint,
        page_size=deployment.page_size,
        weights_dtype=f"torch.{deployment.dtype}",
    )
    KvStore.attach(replace(settings_of(file), memory_directory=tmp_path / "memory"), own).close()
    # A file system that has hardly anything free but what this store has already.
    nothing_left = 1 << 20
    monkeypatch.setattr(
        "prefillshare.store.folders.free_bytes", lambda folder: nothing_left if folder == tmp_path else 1 << 40
    )
    assert settings_of(file).disk_bytes == 80 << 20
    with pytest.raises(ConfigError, match="set disk"):
        settings_of(stored_agents(tmp_path, f'memory = "64 MiB"\npath = "{tmp_path}"\ndisk = "160 MiB"\n'))
