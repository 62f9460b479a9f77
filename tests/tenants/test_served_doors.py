"""The doors of real deployments with tenants, in both topologies: whose key opens which, in whatever form it comes."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from prefillshare.errors import ServerError
from prefillshare.serving.change_client import ChangeClient
from prefillshare.serving.client import Client
from tests.support.engines import MODELS_DIR
from tests.support.served_tenants import TENANTS, Served
from tests.support.tenants import OPERATOR, bearer
from tests.support.waiting import wait_until


def test_who_may_not_is_told_in_the_clients_form(served: Served) -> None:
    asked: Any = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    # One pool of connections, whose ways are closed at the end; the key is each client's own.
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0) as nobody:
        narrow, slow = (nobody.with_options(api_key=served.keys[who]) for who in ("narrow", "slow"))
        with pytest.raises(openai.AuthenticationError) as unknown:
            nobody.chat.completions.create(model="math", **asked)
        assert unknown.value.code == "invalid_api_key"
        for model in ("code", "tiny-base", "no-such"):
            with pytest.raises(openai.PermissionDeniedError) as denied:
                narrow.chat.completions.create(model=model, **asked)
            assert denied.value.code == "model_not_found"
        assert [model.id for model in narrow.models.list()] == ["math", "latest", "seen"]
        slow.chat.completions.create(model="math", **asked)
        with pytest.raises(openai.RateLimitError) as limited:
            slow.chat.completions.create(model="math", **asked)
        assert (limited.value.type, limited.value.code) == ("requests", "rate_limit_exceeded")
        assert 1 <= int(limited.value.response.headers["Retry-After"]) <= 100
    reply = served.post("narrow", "/v1/messages", {**asked, "model": "code"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")
    reply = served.post("narrow", "/generate", {"text": "hi", "lora_path": "code"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "model_not_found")


def test_a_response_is_its_tenants_alone(served: Served) -> None:
    body = {"model": "math", "input": "hi", "max_output_tokens": 4}
    kept = served.post("acme", "/v1/responses", body).json()["id"]
    for who in ("other", "operator"):
        assert served.get(who, f"/v1/responses/{kept}").status_code == 404
        assert served.post(who, "/v1/responses", {**body, "previous_response_id": kept}).status_code == 404
    assert served.get("acme", f"/v1/responses/{kept}").json()["id"] == kept


def test_the_command_line_says_what_the_server_says(served: Served) -> None:
    with Client(served.url, served.keys["narrow"]) as client, pytest.raises(ServerError, match="does not have access"):
        list(client.chat("code", [{"role": "user", "content": "hi"}], max_tokens=1, temperature=0))
    said = "not for the keys of tenants" if served.is_colocated else "wants its admin key"
    changing = ChangeClient(served.url, admin_key=None, api_key=served.keys["acme"])
    with changing as client, pytest.raises(ServerError, match=said):
        client.change("PUT", "modules", "late", {"path": "/"})


def test_a_call_that_names_nobody_is_answered_by_nobody(served: Served) -> None:
    if not served.is_colocated:
        return  # tests/routing/test_parse.py
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    assert served.http.put("/aliases/default", json={"module": "math"}, headers=bearer(OPERATOR)).status_code == 200
    try:
        for path in ("/v1/chat/completions", "/v1/completions"):
            reply = served.post("acme", path, body | {"prompt": "hi"})
            assert (reply.status_code, "model is missing" in reply.text) == (400, True), reply.text
        assert served.post("acme", "/v1/chat/completions", body | {"model": "default"}).json()["model"] == "math"
    finally:
        served.http.delete("/aliases/default", headers=bearer(OPERATOR))


def test_a_tenants_key_opens_no_other_door(served: Served) -> None:
    for path in ("/metrics", "/deployment/state", "/server_info", "/workers", "/v1/loads"):
        assert served.get("acme", path).status_code == 403
    for path in ("/flush_cache", "/load_lora_adapter", "/abort_request", "/release_memory_occupation"):
        assert served.post("acme", path, {}).status_code == 403
    for path in ("/metrics", "/deployment/state"):
        assert served.get("operator", path).status_code == 200
        assert served.http.get(path).status_code == 401


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"extra_key": "tenant:0000"}, 400),
        ({"session_params": {"id": "1"}}, 400),
        ({"extra_key": ["a"]}, 400),
    ],
)
def test_what_reaches_for_others_is_refused(served: Served, fields: dict[str, Any], status: int) -> None:
    body = {"input_ids": [5, 6, 7], "lora_path": "math", "sampling_params": {"max_new_tokens": 1}, **fields}
    assert served.post("acme", "/generate", body).status_code == status


def test_a_body_that_hides_what_it_is_goes_no_further(served: Served) -> None:
    for kind, content in (("text/plain", b'{"text": "a"}'), ("application/json", b'{"text": "a", "b": NaN}')):
        headers = bearer(served.keys["acme"]) | {"Content-Type": kind}
        assert served.http.post("/generate", content=content, headers=headers).status_code in (400, 415)


def test_a_key_comes_in_every_form_and_one_counts(served: Served) -> None:
    narrow, acme = served.keys["narrow"], served.keys["acme"]
    num_own, num_all = (len(served.get(who, "/v1/models").json()["data"]) for who in ("narrow", "acme"))
    # Disaggregated, `math` is all that is served here.
    assert num_own < num_all if served.is_colocated else num_own == num_all
    forms: list[tuple[Any, int | None]] = [
        ([("X-Api-Key", narrow)], num_own),
        ([("X-Api-Key", narrow), ("Authorization", f"Bearer {acme}")], num_own),
        ([("Authorization", f"Bearer {acme}"), ("X-Api-Key", narrow)], num_own),
        ([("X-Api-Key", ""), ("Authorization", f"bearer  {narrow}")], num_own),
        ([("Authorization", f"Bearer {narrow}"), ("Authorization", f"Bearer {acme}")], num_own),
        ([("Authorization", f"Bearer {acme}")], num_all),
        ([("Authorization", acme)], None),
        ([("Authorization", f"Basic {acme}")], None),
        ([("X-Api-Key", "nobody's"), ("Authorization", f"Bearer {acme}")], None),
        ([("X-Api-Key", acme.encode() + b"\xe9")], None),
        ([("X-Api-Key", b"\xff" * 40)], None),
    ]
    for headers, expected in forms:
        reply = served.http.get("/v1/models", headers=headers)
        found = len(reply.json()["data"]) if reply.status_code == 200 else None
        assert (found, reply.status_code) == (expected, 401 if expected is None else 200), headers


def test_a_path_that_only_means_another_one_opens_no_door(served: Served) -> None:
    for path in ("/modules/math%2Fx/generate", "/modules/x%2Fgenerate", "//generate", "/v1/models/../../metrics"):
        for method in ("PUT", "POST", "GET"):
            reply = served.http.request(method, httpx.URL(served.url + path), headers=bearer(served.keys["acme"]))
            assert reply.status_code in (403, 404, 405), (method, path, reply.text)


def test_an_alias_is_the_tenants_where_all_that_it_means_is(served: Served) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    generate = {"text": "hi", "sampling_params": {"max_new_tokens": 1}}
    names = [("latest", 200), ("no-such", 403), *([("either", 403), ("auto", 403)] if served.is_colocated else [])]
    for name, status in names:
        asked = (
            ("/v1/chat/completions", chat | {"model": name}),
            (f"/modules/{name}/generate", generate),
            ("/tokenize", {"model": name, "prompt": "hi"}),
        )
        for path, body in asked:
            for headers in ({}, {"X-Task": "code"}):
                reply = served.post("narrow", path, body, **headers)
                assert reply.status_code == status, (name, path, reply.text)
                assert "code" not in reply.text or status == 200 or '"code":"model_not_found"' in reply.text
                assert "'code'" not in reply.text
    told = {card["id"] for card in served.get("narrow", "/v1/models").json()["data"]}
    assert told == {"math", "latest", "seen"}


def test_rules_hear_the_call_behind_an_alias_in_the_address(served: Served) -> None:
    if not served.is_colocated:
        return  # over one module there is nothing to choose; tests/routing/test_changes.py asks a router
    before = {module["name"]: module["requests"] for module in served.state_at_rest()["modules"]}
    body = {"text": "hi", "sampling_params": {"max_new_tokens": 1}}
    assert served.post("acme", "/modules/auto/generate", body, **{"X-Task": "any"}).status_code == 200
    assert served.post("acme", "/modules/auto/generate", body).status_code == 200
    after = {
        module["name"]: module["requests"] - before[module["name"]] for module in served.state_at_rest()["modules"]
    }
    assert (after["code"], after["math"]) == (1, 1)


def test_no_field_of_the_engines_own_comes_in_by_a_modules_address(served: Served) -> None:
    body = {"text": "hi", "sampling_params": {"max_new_tokens": 1}}
    for path in ("/generate", "/modules/math/generate"):
        for field, value in (("image_data", "/etc/hostname"), ("lora_id", "x"), ("http_worker_ipc", "ipc:///tmp/x")):
            reply = served.post("acme", path, body | {"lora_path": "math", field: value})
            assert (reply.status_code, f"{field} cannot be set" in reply.text) == (400, True), reply.text


def test_calls_in_the_background_count_as_they_come(served: Served) -> None:
    # Nothing that could be said is short: it runs still when the last of them comes, and when it is cancelled.
    schema = {"type": "array", "items": {"enum": ["box"]}, "minItems": 200}
    form = {"format": {"type": "json_schema", "name": "many", "schema": schema}}
    body = {"model": "math", "input": "hi", "background": True, "max_output_tokens": 800, "text": form}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: served.post("narrow", "/v1/responses", body), range(8)))
    kept = [reply.json()["id"] for reply in replies if reply.status_code == 200]
    assert len(kept) == 1
    # At its limit a tenant can still end what runs.
    assert served.post("narrow", f"/v1/responses/{kept[0]}/cancel", {}).json()["status"] == "cancelled"
    wait_until(lambda: served.tenant("narrow")["running"] == 0)


def test_keys_are_nowhere_to_be_read(served: Served) -> None:
    metrics, state = served.get("operator", "/metrics").text, served.get("operator", "/deployment/state").text
    assert 'prefillshare_tenant_calls_total{tenant="acme"}' in metrics
    logs = "".join(log.read_text(errors="replace") for log in served.log.parent.glob("*.log"))
    server, models = served.get("operator", "/server_info").text, served.get("acme", "/v1/models").text
    for name in (*TENANTS, "operator"):
        assert served.keys[name] not in metrics + state + logs + server + models
    assert not served.is_colocated or ("api_key='***'" in logs and '"api_key":"***"' in server)
    assert str(MODELS_DIR) not in models


def test_a_revoked_key_is_unknown_within_moments(served: Served) -> None:
    before = served.file.read_text()
    served.file.write_text(before.replace('name = "friend"', 'name = "renamed"', 1).replace("sha256:", "sha256:", 1))
    wait_until(lambda: "renamed" in served.get("operator", "/deployment/state").text)
    served.file.write_text("nonsense")
    wait_until(lambda: served.state()["tenants"]["problem"] is not None)
    assert served.get("friend", "/v1/models").status_code == 200
    served.file.write_text(before)
    wait_until(lambda: served.state()["tenants"]["problem"] is None)
