"""Prometheus' text: ours, other processes' with labels added, and several made one."""

from prefillshare.observe.exposition import exposition
from prefillshare.observe.observer import Observer
from prefillshare.observe.relabel import add_labels, merge_texts
from prefillshare.observe.sessions import Prompt
from prefillshare.observe.state import ModuleFacts, deployment_state, worker_state
from tests.support.monitoring import scraped

KV = {
    "capacity_tokens": 100,
    "shared_tokens": 30,
    "private_tokens": 5,
    "free_tokens": 65,
    "evictable_tokens": 20,
    "pinned_tokens": 10,
    "token_bytes": 8,
}
TOTALS = {"prompt_tokens": 7, "cached_tokens": 3, "generated_tokens": 9, "retractions": 1}


def worker(worker_id: str, role: str, module: str | None, **fields: object) -> dict:
    known = {
        "url": "http://localhost:1",
        "pid": 1,
        "state": "up",
        "restarts": 2,
        "totals": TOTALS,
        "running": 1,
        "queued": 0,
        "kv": KV,
        "handoff": {"tokens": 4, "bytes": 32, "seconds": None, "calls": 1, "memory_bytes": 16, "memory_calls": 1},
        "push": {"pushed_tokens": 6, "push_hit_tokens": 5, "push_wasted_tokens": 1, "dropped_pushes": 2},
        "eager": {"tokens": 60, "hit_tokens": 50, "dropped": 1, "loaded_tokens": 7, "waiting": 2}
        if role == "prefill"
        else None,
        "admission": {"waiting": 3, "held_back": 9, "overdue": 1, "sessions": 4, "held_tokens": 900}
        if role == "prefill"
        else None,
    }
    return worker_state(id=worker_id, role=role, module=module, **{**known, **fields})


def document() -> dict:
    observer = Observer(clock=lambda: 10.0)
    request = observer.begin('ma"th', session="s", prompt=Prompt(data=b"x" * 20))
    request.note_prefill(tokens=10, own=1, cross=4)
    request.note_first_token(0.03)
    request.note_tokens(2, 0.5)
    request.end("ok", seconds=0.6)
    down = {"state": "down", "kv": None, "running": None, "queued": None, "restarts": None}
    return deployment_state(
        observer,
        name="n",
        topology="disaggregated",
        prefill_module="base",
        modules=[ModuleFacts(name='ma"th', kind="lora", is_prefill_module=False)],
        workers=[worker("p0", "prefill", None), worker("d0", "decode", 'ma"th', **down)],
        repins=3,
    )


def test_the_text_has_the_documents_numbers() -> None:
    samples = scraped(exposition(document()).decode())
    module = (("module", 'ma"th'),)
    prefill = (("module", ""), ("role", "prefill"), ("worker", "p0"))
    assert samples["prefillshare_cross_module_hit_tokens_total", module] == 4
    ahead = {name: value for (name, _), value in samples.items() if name.startswith("prefillshare_eager")}
    assert ahead == {
        "prefillshare_eager_tokens_total": 60,
        "prefillshare_eager_hit_tokens_total": 50,
        "prefillshare_eager_dropped_total": 1,
        "prefillshare_eager_loaded_tokens_total": 7,
        "prefillshare_eager_waiting": 2,
    }
    assert samples["prefillshare_waiting_for_memory", prefill] == 3
    assert samples["prefillshare_held_back_total", prefill] == 9
    assert samples["prefillshare_held_back_overdue_total", prefill] == 1
    assert samples["prefillshare_cached_tokens_total", module] == 5
    assert samples["prefillshare_inter_token_latency_seconds_count", module] == 2
    assert samples["prefillshare_inter_token_latency_seconds_sum", module] == 0.5
    assert samples["prefillshare_time_to_first_token_seconds_bucket", (("le", "0.05"), *module)] == 1
    assert samples["prefillshare_time_to_first_token_seconds_bucket", (("le", "0.025"), *module)] == 0
    assert samples["prefillshare_kv_used_tokens", prefill] == 35
    assert samples["prefillshare_kv_used_bytes", prefill] == 35 * 8
    assert samples["prefillshare_worker_restarts_total", prefill] == 2
    assert samples["prefillshare_repins_total", ()] == 3
    assert samples["prefillshare_start_time_seconds", ()] == 10


def test_what_nobody_knows_has_no_sample() -> None:
    samples = scraped(exposition(document()).decode())
    dead = {name for name, labels in samples if ("worker", "d0") in labels}
    assert "prefillshare_worker_up" in dead
    assert not dead & {"prefillshare_kv_free_tokens", "prefillshare_worker_requests_running"}
    assert "prefillshare_worker_restarts_total" not in dead
    assert not any(name == "prefillshare_handoff_seconds_total" for name, _ in samples)


OTHER = """\
# HELP sglang:requests_total Requests.
# TYPE sglang:requests_total counter
sglang:requests_total{model_name="a b{c}",le="+Inf"} 3.0
# HELP sglang:free Free, "so to say" {x} 1.
# TYPE sglang:free gauge
sglang:free 2.5e+09
"""


def test_labels_are_added_to_every_sample_and_to_nothing_else() -> None:
    text = add_labels(OTHER, {"worker": 'd"0', "module": ""})
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        line for line in OTHER.splitlines() if line.startswith("#")
    ]
    assert scraped(text) == {
        (
            "sglang:requests_total",
            (("le", "+Inf"), ("model_name", "a b{c}"), ("module", ""), ("worker", 'd"0')),
        ): 3.0,
        ("sglang:free", (("module", ""), ("worker", 'd"0'))): 2.5e9,
    }


def test_merged_texts_have_each_family_once() -> None:
    texts = [add_labels(OTHER, {"worker": name}) for name in ("a", "b")]
    only = "# HELP other x\n# TYPE other gauge\nother 1\n"
    samples = scraped(merge_texts(["", texts[0], texts[1], only]))
    assert len(samples) == 5
    assert samples["sglang:free", (("worker", "b"),)] == 2.5e9
    assert merge_texts([]) == ""


def test_choices_are_told_once_there_are_any() -> None:
    before = document()
    assert "choices" not in before
    assert "prefillshare_choice" not in exposition(before).decode()
    observer = Observer()
    for module in ("math", "code", "math"):
        observer.choices.note("auto", module)
        observer.choices.note_time(0.02)
    state = deployment_state(observer, name="n", topology="colocated", prefill_module="base", modules=[], workers=[])
    assert state["choices"]["items"] == [
        {"alias": "auto", "module": "code", "calls": 1},
        {"alias": "auto", "module": "math", "calls": 2},
    ]
    samples = scraped(exposition(state).decode())
    assert samples["prefillshare_choices_total", (("alias", "auto"), ("module", "math"))] == 2
    assert samples["prefillshare_choice_seconds_count", ()] == 3
    assert samples["prefillshare_choice_seconds_bucket", (("le", "0.01"),)] == 0
    assert samples["prefillshare_choice_seconds_bucket", (("le", "0.05"),)] == 3
