"""Settings that are refused, each with one sentence that names the fix."""

import json
from types import SimpleNamespace

import pytest

from prefillshare.contract import FINGERPRINT_VARIABLE, STORE_BACKEND_CLASS, UNSUPPORTED_SWITCHES
from sglang_patches.checks.settings import refusals
from sglang_patches.patches.server_args import wrap_check_server_args
from tests.support.random_models import make_adapter, make_base

SUPPORTED = {
    "radix_cache_backend": "prefillshare",
    "pp_size": 1,
    "tokenizer_worker_num": 1,
    "speculative_algorithm": None,
    "disaggregation_mode": "null",
    "disaggregation_decode_enable_radix_cache": False,
    "disaggregation_transfer_backend": "nixl",
    "enable_hierarchical_cache": False,
    "hicache_storage_backend": None,
    "hicache_storage_backend_extra_config": None,
    "grammar_backend": "xgrammar",
    "dp_size": 1,
    "enable_lora": True,
    "max_loras_per_batch": 4,
    "lora_target_modules": {"q_proj", "down_proj"},
    "lora_drain_wait_threshold": 0.0,
    "lora_paths": [],
    "model_path": "models/tiny/base",
}


def arguments(*, backend="torch_native", **changes):
    given = SimpleNamespace(**{**SUPPORTED, **changes})
    given.get_attention_backends = lambda: (backend, backend)
    return given


def test_grammars_are_followed_by_a_backend_that_is_bounded():
    assert list(refusals(arguments(grammar_backend="none"))) == []
    (reason,) = refusals(arguments(grammar_backend="outlines"))
    assert "not for outlines: remove --grammar-backend" in reason


def test_a_supported_set_passes():
    assert list(refusals(arguments())) == []


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ({"radix_cache_backend": None}, "--radix-cache-backend prefillshare"),
        ({"radix_cache_backend": "flexkv"}, "--radix-cache-backend prefillshare"),
        ({"speculative_algorithm": "EAGLE"}, "remove --speculative-algorithm EAGLE"),
        ({"pp_size": 2}, "--pp-size 1"),
        ({"tokenizer_worker_num": 2}, "--tokenizer-worker-num 2 would take calls in processes without the patches"),
        ({"max_loras_per_batch": 1}, "number of decode modules + 1"),
        ({"lora_drain_wait_threshold": 1.5}, "remove --lora-drain-wait-threshold"),
        ({"lora_target_modules": {"q_proj", "lm_head"}}, "names lm_head"),
        ({"dllm_algorithm": "x"}, "remove --dllm-algorithm"),
        *(({name: True}, f"remove --{name.replace('_', '-')}") for name in UNSUPPORTED_SWITCHES),
    ],
)
def test_each_unsupported_setting_is_named_with_its_fix(change, fix):
    (reason,) = refusals(arguments(**change))
    assert fix in reason
    assert "\n" not in reason


@pytest.fixture
def fingerprint(monkeypatch):
    monkeypatch.setenv(FINGERPRINT_VARIABLE, "sha256:1")


DECODE = {"disaggregation_mode": "decode", "disaggregation_decode_enable_radix_cache": True}


@pytest.mark.usefixtures("fingerprint")
@pytest.mark.parametrize("worker", [{"disaggregation_mode": "prefill"}, DECODE])
def test_workers_pass(worker):
    for backend in ("nixl", "mooncake"):
        assert list(refusals(arguments(**worker, disaggregation_transfer_backend=backend))) == []


@pytest.mark.usefixtures("fingerprint")
@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ({"disaggregation_transfer_backend": "mori"}, "set --disaggregation-transfer-backend nixl"),
        ({"dp_size": 2}, "start one more worker"),
        # SGLang itself switches the radix cache off then.
        (
            {"disaggregation_decode_enable_radix_cache": False, "disable_radix_cache": True},
            "add --disaggregation-decode-enable-radix-cache",
        ),
    ],
)
def test_each_unsupported_setting_of_a_worker_is_named_with_its_fix(change, fix):
    (reason,) = refusals(arguments(**{**DECODE, **change}))
    assert fix in reason


@pytest.mark.parametrize("worker", [{"disaggregation_mode": "prefill"}, DECODE])
def test_a_worker_that_does_not_say_whose_kv_it_takes_is_refused(monkeypatch, worker):
    monkeypatch.delenv(FINGERPRINT_VARIABLE, raising=False)
    (reason,) = refusals(arguments(**worker))
    assert f"{FINGERPRINT_VARIABLE} is not set" in reason


@pytest.mark.parametrize("name", ["SGLANG_ENABLE_UNIFIED_RADIX_TREE", "SGLANG_EXPERIMENTAL_CPP_RADIX_TREE"])
def test_other_radix_trees_chosen_by_environment_are_refused(monkeypatch, name):
    monkeypatch.setenv(name, "true")
    (reason,) = refusals(arguments())
    assert f"unset {name}" in reason


def test_a_refusal_ends_the_process_and_upstream_checks_run_first():
    seen = []
    check = wrap_check_server_args(seen.append)
    args = arguments(pp_size=2)
    with pytest.raises(SystemExit, match="pipeline parallelism"):
        check(args)
    assert seen == [args]


def test_every_refused_switch_is_a_field_of_the_pinned_engine():
    from sglang.srt.server_args import ServerArgs

    fields = set(ServerArgs.__dataclass_fields__)
    assert set(UNSUPPORTED_SWITCHES) <= fields
    assert set(SUPPORTED) <= fields
    assert "dllm_algorithm" in fields


@pytest.fixture
def solver(tmp_path):
    """An adapter that reads base-made KV only, as SGLang names one."""
    base = make_base(tmp_path / "base")
    path = make_adapter(tmp_path / "solver", base, "solver", seed=1, objective="icarus", target_modules=("q_proj",))
    return SimpleNamespace(lora_name="solver", lora_path=str(path))


def test_a_module_that_reads_base_kv_only_is_served_where_second_rows_are_computed(solver):
    assert list(refusals(arguments(lora_paths=[solver]))) == []
    (reason,) = refusals(arguments(lora_paths=[solver], backend="fa3"))
    assert "attention backend fa3 cannot serve module solver" in reason
    assert "set attention_backend to torch_native or triton or flashinfer" in reason
    assert list(refusals(arguments(lora_paths=[SimpleNamespace(lora_path="owner/name")], backend="fa3"))) == []


@pytest.mark.usefixtures("fingerprint")
def test_a_decode_worker_serves_it_beside_the_base_and_refuses_it_as_full_weights(solver):
    assert list(refusals(arguments(**DECODE, lora_paths=[solver]))) == []
    (reason,) = refusals(arguments(**DECODE, model_path=solver.lora_path))
    assert 'serve it with kind = "lora"' in reason


STORE = {
    "enable_hierarchical_cache": True,
    "hicache_storage_backend": "dynamic",
    "hicache_storage_backend_extra_config": json.dumps({"class_name": STORE_BACKEND_CLASS}),
    "hicache_write_policy": "write_through",
    "hicache_storage_prefetch_policy": "timeout",
    "page_size": 16,
}


@pytest.mark.usefixtures("fingerprint")
@pytest.mark.parametrize("role", ["null", "prefill"])
def test_the_deployments_store_passes(role):
    assert list(refusals(arguments(**STORE, disaggregation_mode=role))) == []


@pytest.mark.usefixtures("fingerprint")
@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (DECODE, "a decode worker holds KV of its own module"),
        ({"page_size": 1}, "set --page-size 16 or more"),
        ({"hicache_write_policy": "write_back"}, "set --hicache-write-policy write_through"),
        ({"hicache_storage_prefetch_policy": "best_effort"}, "set --hicache-storage-prefetch-policy timeout"),
        ({"hicache_storage_backend": "file"}, "remove --enable-hierarchical-cache"),
        ({"pp_size": 2}, "--pp-size 1"),
    ],
)
def test_what_does_not_go_with_a_store_is_named(change, fix):
    (reason,) = refusals(arguments(**{**STORE, **change}))
    assert fix in reason


def test_a_store_needs_the_fingerprint(monkeypatch):
    monkeypatch.delenv(FINGERPRINT_VARIABLE, raising=False)
    (reason,) = refusals(arguments(**STORE))
    assert "set it to the fingerprint of the prefill module" in reason


def test_a_decode_worker_with_other_pages_than_the_store_is_refused(monkeypatch):
    monkeypatch.setenv(FINGERPRINT_VARIABLE, "sha256:x")
    monkeypatch.setenv("PREFILLSHARE_WRITE_BACK", '{"page_size": 16, "store": {}}')
    assert list(refusals(arguments(**DECODE, page_size=16))) == []
    (reason,) = refusals(arguments(**DECODE, page_size=32))
    assert "--page-size is 32 and pages in the deployment's store have 16 tokens" in reason
    assert "set --page-size 16" in reason
