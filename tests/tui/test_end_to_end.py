"""The real program in a real terminal over a real deployment: it shows the numbers that Prometheus is told."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from prefillshare.serving.launch import RunningDeployment, running_deployment
from prefillshare.serving.machine.ports import free_port
from tests.support.engines import TINY_AGENTS
from tests.support.forks import fork_server
from tests.support.marks import starts_engine
from tests.support.tmux import Terminal, numbers_after, prefillshare

MODULES = ("math", "tool", "code")
NUM_TURNS = 6
COUNTERS = ("requests", "generated_tokens", "prompt_tokens", "own_hit_tokens", "cross_module_hit_tokens")


@pytest.fixture(scope="module")
@starts_engine
def tiny() -> Iterator[RunningDeployment]:
    with running_deployment(TINY_AGENTS, fork_server=fork_server) as running:
        yield running


@pytest.fixture(scope="module")
def http(tiny: RunningDeployment) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=tiny.url, timeout=120) as client:
        yield client


def talk(http: httpx.Client, session: str) -> None:
    """A session in which the modules take turns over a growing context."""
    prompt = f"{session}: the shelf holds seven boxes"
    for turn in range(NUM_TURNS):
        body = {"model": MODULES[turn % len(MODULES)], "prompt": prompt, "max_tokens": 8, "temperature": 0}
        reply = http.post("/v1/completions", json=body, headers={"X-Session-ID": session})
        assert reply.status_code == 200, reply.text
        prompt += reply.json()["choices"][0]["text"] + f" and {turn} boxes more"


def scraped(http: httpx.Client, module: str) -> list[int]:
    """A module's counters as Prometheus gets them."""
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
        if sample.labels == {"module": module}
    }
    return [int(found[f"prefillshare_{name}_total"]) for name in COUNTERS]


def on_screen(screen: str, module: str) -> list[int]:
    """The same counters in the sentences about the selected module."""
    numbers = numbers_after(f"{module} since the start:", screen)
    calls, _failed, _refused, _given_up, generated, prompt, own, cross = numbers[:8]
    return [calls, generated, prompt, own, cross]


def test_the_screen_shows_what_prometheus_is_told(tiny: RunningDeployment, http: httpx.Client, tmp_path: Path) -> None:
    with Terminal(prefillshare("top", "--url", tiny.url), tmp_path) as terminal:
        terminal.wait_for("LIVE")
        talk(http, "agents-1")
        terminal.press("2")
        unfiltered = f"─ {len(MODULES) + 1} modules ─"
        terminal.wait_for(unfiltered)
        for module in sorted(MODULES):
            terminal.press("/", *module, "Enter")
            expected = scraped(http, module)
            assert expected[0] >= NUM_TURNS // len(MODULES)
            # The first letters of a name may leave one row as well: the keys have all come when the title has the name.
            terminal.wait_for(f'1 of {len(MODULES) + 1} modules, with "{module}"')
            terminal.wait_for(
                lambda screen, module=module, expected=expected: (
                    f"{module} since the start:" in screen and on_screen(screen, module) == expected
                )
            )
            terminal.press("Escape")
            # Only once it has left: a key that follows Escape at once is another key (Alt and it).
            terminal.wait_for(unfiltered)
        assert sum(scraped(http, module)[4] for module in MODULES) > 0

        terminal.press("4")
        state = http.get("/deployment/state").json()
        session = next(session for session in state["sessions"]["items"] if session["id"] == "agents-1")
        terminal.wait_for("session agents-1")
        row = re.compile(rf"agents-1 +{' '.join(session['modules'])} +{NUM_TURNS} +{session['context_tokens']}\b")
        terminal.wait_for(row.search)
        expected_session = [session[name] for name in ("prompt_tokens", "own_hit_tokens", "cross_hit_tokens")]
        terminal.wait_for(lambda screen: numbers_after("tokens; prompts", screen)[:3] == expected_session)

        terminal.press("3")
        kv = next(
            worker["kv"] for worker in http.get("/deployment/state").json()["workers"] if worker["id"] == "engine"
        )
        # Other screens speak of KV memory, too: this one's sentence stands below the engine.
        capacity = [kv["capacity_tokens"]]
        terminal.wait_for(lambda screen: numbers_after("KV memory ", screen.rpartition("engine")[2])[:1] == capacity)
        terminal.press("q")
        assert terminal.wait_for_end() == 0


@pytest.mark.engine
def test_launch_shows_the_dashboard_and_goes_on_without_it(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Terminal(prefillshare("launch", str(TINY_AGENTS), "--port", str(port), "--tui"), tmp_path) as terminal:
        terminal.wait_for("LIVE", timeout_s=600)
        terminal.press("q")
        terminal.wait_for("Stop the deployment, too?")
        terminal.press("k")
        terminal.wait_for(f"still serving at {url}")
        assert httpx.get(f"{url}/health", timeout=120).status_code == 200
        terminal.press("C-c")
        assert terminal.wait_for_end(timeout_s=300) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
