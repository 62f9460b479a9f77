"""The store of a deployment before anything starts: sizes, what is wrong with them, and which process gets it."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.accelerators import assumed_gpus
from prefillshare.config import load_deployment
from prefillshare.contract import WRITE_BACK_VARIABLE
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import plan, plan_warnings
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.store import plan_store, without_store
from prefillshare.store import KvStore
from tests.fidelity.icarus_family import PAIRED, make_icarus_family
from tests.store.stores import identity
from tests.support.pd import deployment_file
from tests.support.stores import stored_agents

PD_STORE = '[store]\nmemory = "64 MiB"\n'


def planned(folder: Path, store: str):
    return plan_store(resolve(load_deployment(stored_agents(folder, store))))


def test_an_engine_gets_pages_of_16_tokens_the_host_tier_and_the_store(tmp_path):
    deployment = resolve(load_deployment(stored_agents(tmp_path)))
    (command,) = plan(deployment, LaunchOptions()).values()
    argv = command.argv
    assert argv[argv.index("--page-size") + 1] == "16"
    assert "--enable-hierarchical-cache" in argv
    told = json.loads(argv[argv.index("--hicache-storage-backend-extra-config") + 1])
    assert told["store"]["memory_bytes"] == 64 << 20
    assert command.environment["PREFILLSHARE_PREFILL_FINGERPRINT"] == deployment.fingerprint
    assert not any("hicache" in word or "hierarchical" in word for word in without_store(argv))
    assert len(without_store(argv)) == len(argv) - 11


def test_prefill_workers_share_one_store_and_decode_workers_have_none(tmp_path):
    file = deployment_file(tmp_path, "tool", page_size=16)
    file.write_text(file.read_text().replace("[prefill]", "[prefill]\nworkers = 2") + PD_STORE)
    commands = plan(resolve(load_deployment(file)), LaunchOptions())
    stores = {
        name: command.argv[command.argv.index("--hicache-storage-backend-extra-config") + 1]
        for name, command in commands.items()
        if "--enable-hierarchical-cache" in command.argv
    }
    assert stores.keys() == {"prefill-0", "prefill-1"}
    assert len(set(stores.values())) == 1


def test_decode_workers_of_icarus_modules_write_into_the_same_store_and_no_others(tmp_path):
    text = make_icarus_family(tmp_path).read_text().replace('"colocated"', '"disaggregated"')
    file = tmp_path / "answers.toml"
    told = {}
    for table in ("", PD_STORE):
        file.write_text(text + table)
        commands = plan(resolve(load_deployment(file)), LaunchOptions())
        found = {name: command.environment.get(WRITE_BACK_VARIABLE) for name, command in commands.items()}
        told[table] = {name: json.loads(value) for name, value in found.items() if value is not None}
    assert told[""] == {}
    assert told[PD_STORE].keys() == {f"decode-{name}-0" for name in PAIRED}
    argv = commands["prefill-0"].argv
    prefill = json.loads(argv[argv.index("--hicache-storage-backend-extra-config") + 1])
    for each in told[PD_STORE].values():
        assert each == {"page_size": 16, "store": prefill["store"]}
        assert not any("hicache" in word for word in commands[f"decode-{PAIRED[0]}-0"].argv)


def test_without_the_table_nothing_is_said_of_it(tmp_path):
    file = deployment_file(tmp_path, "tool")
    for command in plan(resolve(load_deployment(file)), LaunchOptions()).values():
        assert not any("hicache" in word or "hierarchical" in word for word in command.argv)


def test_sizes_that_are_not_given_follow_from_what_is_free(tmp_path):
    (tmp_path / "disk").mkdir()
    settings = planned(tmp_path, 'path = "disk"\n')
    assert settings is not None
    assert 0 < settings.memory_bytes <= os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize // 2
    assert settings.directory == tmp_path / "disk"
    assert (settings.disk_bytes or 0) > 0


def test_pages_of_other_modules_on_the_disk_are_not_taken_for_room(tmp_path, monkeypatch):
    (tmp_path / "memory").mkdir()
    (tmp_path / "disk").mkdir()
    sizes = 'memory = "8 MiB"\npath = "disk"\n'
    settings = planned(tmp_path, f'{sizes}disk = "64 MiB"\n')
    fingerprint = resolve(load_deployment(stored_agents(tmp_path))).fingerprint
    monkeypatch.setattr("prefillshare.store.folders.free_bytes", lambda folder: 20 << 20)
    for changed in ({}, {"page_size": 32}, {"prefill_fingerprint": "other"}, {"weights_dtype": "torch.bfloat16  {}"}):
        of = identity(**{"prefill_fingerprint": fingerprint, "weights_dtype": "torch.float32  {}"} | changed)
        KvStore.attach(replace(settings, memory_directory=tmp_path / "memory"), of).close()
        if not changed:  # its own pages are room
            assert planned(tmp_path, f'{sizes}disk = "64 MiB"\n').disk_bytes == 64 << 20
            assert planned(tmp_path, sizes).disk_bytes > 20 << 20
        else:
            with pytest.raises(ConfigError, match=r"beside 0\.062 GiB of pages of other modules: make room \(prefills"):
                planned(tmp_path, f'{sizes}disk = "64 MiB"\n')
            assert planned(tmp_path, sizes).disk_bytes == 10 << 20
        shutil.rmtree(tmp_path / "disk" / f"prefillshare-store-{os.getuid()}")


def test_each_rank_has_a_disk_tier_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("prefillshare.store.folders.free_bytes", lambda folder: 100 << 20)
    sizes = 'memory = "8 MiB"\npath = "."\n'

    def planned_for_two(store: str) -> int | None:
        config = load_deployment(stored_agents(tmp_path, store))
        config = replace(config, engine=replace(config.engine, tensor_parallel_size=2))
        return plan_store(resolve(config, assumed_gpus("2x24GB"))).disk_bytes

    assert planned_for_two(sizes) == 25 << 20
    assert planned_for_two(f'{sizes}disk = "50 MiB"\n') == 50 << 20
    with pytest.raises(ConfigError, match=r'0\.059 GiB for each of 2 ranks and .* or set disk = "50 MiB" or less'):
        planned_for_two(f'{sizes}disk = "60 MiB"\n')


def test_two_files_with_one_name_are_two_deployments(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    names = {planned(tmp_path / folder, 'memory = "64 MiB"\n').name for folder in ("a", "b")}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ('memory = "8"', "memory is '8': write a size with its unit"),
        ('memory = "0 GiB"', "write a size with its unit"),
        (f'memory = "1{400 * "0"} GiB"', "write a size with its unit"),
        ('memory = "1 KiB"', 'a page of 16 tokens takes 81,920: set memory = "5 MiB" or more'),
        ('memory = "900 TiB"', "/dev/shm has"),
        (f'memory = "64 MiB"\npath = "{1000 * "long"}"', "does not exist"),
        ('memory = "64 MiB"\npath = "nowhere"', "path 'nowhere' under [store] does not exist"),
        ('memory = "64 MiB"\npath = "/dev/shm"', "path '/dev/shm' under [store] lies in the machine's memory"),
        ('memory = "64 MiB"\npath = "stored.toml"', "is not a directory"),
        ('memory = "64 MiB"\ndisk = "1 GiB"', "there is no path: name a directory with path"),
        ('memory = "64 MiB"\npath = "."\ndisk = "900 TiB"', "the file system of"),
        ('memory = "64 MiB"\npath = "/proc"', "has 0 GiB free: make room, or name another directory with path"),
        ('memory = "64 MiB"\npath = "."\ndisk = "1 MiB"', "disk under [store] is 1,048,576 bytes and a page of 16"),
        ('memory = "64 MiB"\ncodec = "splitzip"', "which is for bfloat16, and KV has the type float32"),
        ('memory = "64 MiB"\ncodec = "zip"', "codec is 'zip'"),
        ('memory = "64 MiB"\nthreads = 0', "threads is 0: it must be 1 to 64"),
        ('memory = "64 MiB"\nthreads = 65', "threads is 65: it must be 1 to 64"),
        ('memory = "64 MiB"\nhost_ratio = 0.5', "a tier smaller than the KV cache"),
        ('peers = ["10.0.0.2:7000"]', """peers has '10.0.0.2:7000': write each as "http://HOST:PORT\""""),
        ('peers = ["http://a:1", "http://a:1"]', "name each once"),
        ('peers = ["http://a:99999"]', "peers has 'http://a:99999': write each as"),
        (
            'peers = ["http://a:1"]\nserve = "a:1"\nsecret_file = "secret"',
            "which is this host's own serve: name the other",
        ),
        ('serve = "7000"', "serve is '7000': write \"ADDRESS:PORT\""),
        ('serve = "127.0.0.1:0"', "serve is '127.0.0.1:0': write \"ADDRESS:PORT\""),
        ('serve = "127.0.0.1:65536"', "serve is '127.0.0.1:65536': write \"ADDRESS:PORT\""),
        ('serve = "127.0.0.1:7000"', "peers and serve need secret_file"),
        ('secret_file = "secret"', "peers and serve need secret_file"),
        ('serve = "127.0.0.1:7000"\nsecret_file = "nowhere"', "make it with `(umask 077; head -c 32"),
        ('serve = "127.0.0.1:7000"\nsecret_file = "stored.toml"', "chown it to you and chmod 600"),
        ('serve = "127.0.0.1:7000"\nsecret_file = "."', "is no file: name one, or make it with"),
        ('memroy = "64 MiB"', "did you mean 'memory'?"),
    ],
)
def test_what_is_wrong_is_said_with_its_fix(tmp_path, store, said):
    with pytest.raises(ConfigError) as error:
        planned(tmp_path, f"{store}\n")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_host_tier_larger_than_the_machine_is_refused(tmp_path):
    deployment = resolve(load_deployment(stored_agents(tmp_path, 'memory = "64 MiB"\nhost_ratio = 1e9\n')))
    with pytest.raises(ConfigError, match="of memory: set a smaller memory or host_ratio under"):
        plan_warnings(deployment)


def test_small_pages_and_cache_flags_of_sglang_are_refused(tmp_path):
    file = stored_agents(tmp_path)
    text = file.read_text()
    for line, said in (
        ("page_size = 1", "set page_size = 16 or more under [engine], or remove [store]"),
        ('extra_args = ["--hicache-ratio", "3"]', "write host_ratio under [store]"),
        ('extra_args = ["--enable-hierarchical-cache"]', "write a [store] table"),
    ):
        file.write_text(text.replace("[engine]", f"[engine]\n{line}"))
        with pytest.raises(ConfigError) as error:
            load_deployment(file)
        assert said in str(error.value)


def test_engines_know_that_there_are_peers_and_not_the_secret(tmp_path):
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_bytes(b"x" * 32)
    file = stored_agents(tmp_path, 'peers = ["http://10.0.0.2:7000"]\nsecret_file = "secret"\n')
    (command,) = plan(resolve(load_deployment(file)), LaunchOptions()).values()
    told = command.argv[command.argv.index("--hicache-storage-backend-extra-config") + 1]
    assert json.loads(told)["fetches"] is True
    assert "secret" not in told
    settings = plan_store(resolve(load_deployment(file)))
    assert settings is not None
    assert settings.secret_file == secret
    assert settings.peers == ("http://10.0.0.2:7000",)
