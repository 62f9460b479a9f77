"""Measure both topologies and SGLang as released with aiperf, NVIDIA's load generator, in turn, in one run.

Run: `make bench-outside`, which makes aiperf's environment first. Every turn of a session names another model; aiperf
sends the session so far with it, as chat clients do. Same weights, engine settings, KV budget and texts for all.
Nothing of this project counts or times: the figures and tables are aiperf's.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import httpx

from benchmarks.outside.aiperf import Load, Profile, run_aiperf
from benchmarks.outside.report import describe
from benchmarks.outside.systems import SYSTEMS, Served
from benchmarks.outside.workload import Sizes, write_sessions
from prefillshare import direct
from prefillshare.bench.families.factory import FAMILIES, make_family
from prefillshare.bench.systems.base import Setup
from prefillshare.config.schema import Deployment
from prefillshare.errors import PrefillShareError
from prefillshare.modules.locate import locate
from prefillshare.serving.options import auth_header

_WARM_UPS = 2
_TIMEOUT_S = 600.0


def main() -> None:
    """Parse the command line, measure, write the report."""
    given = _parse()
    sizes = Sizes(
        num_sessions=given.sessions,
        num_turns=given.turns,
        start_words=given.start_words,
        growth_words=given.growth_words,
        output_tokens=given.output_tokens,
    )
    if given.out.exists() and any(given.out.iterdir()):
        sys.exit(f"{given.out} is not empty: choose another --out, or remove it")
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        deployment = make_family(given.family).deployment(given.modules, lambda text: print(text, flush=True))
        profiles = {name: _measure(name, given, sizes, deployment) for name in given.systems.split(",")}
        text = describe(profiles, sizes, given.modules, str(given.concurrency), _version(given.aiperf))
    except PrefillShareError as error:
        sys.exit(f"error: {error}")
    (given.out / "report.md").write_text(text, encoding="utf-8")
    print(text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outside", description=__doc__)
    parser.add_argument("--aiperf", type=Path, default=Path(".aiperf/bin/aiperf"), help="aiperf's program")
    parser.add_argument("--out", type=Path, default=Path("bench-results/outside"), help="new folder for all results")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="of these, separated by commas")
    parser.add_argument("--family", default="bench-0.1b", choices=FAMILIES, help="models that are served")
    parser.add_argument("--modules", type=int, default=3, help="decode modules")
    parser.add_argument("--sessions", type=int, default=8, help="sessions")
    parser.add_argument("--concurrency", type=int, default=4, help="sessions at a time")
    parser.add_argument("--turns", type=int, default=12, help="turns of a session")
    parser.add_argument("--start-words", type=int, default=150, help="words of the first turn")
    parser.add_argument("--growth-words", type=int, default=8, help="words of each further turn")
    parser.add_argument("--output-tokens", type=int, default=8, help="tokens of each answer")
    parser.add_argument("--kv-tokens", type=int, default=32768, help="KV budget of a system, for all of its engines")
    given = parser.parse_args()
    unknown = set(given.systems.split(",")) - set(SYSTEMS)
    if unknown:
        parser.error(f"--systems has {', '.join(sorted(unknown))}: choose of {', '.join(SYSTEMS)}")
    if given.concurrency > given.sessions:
        parser.error(f"--concurrency {given.concurrency} is more than --sessions {given.sessions}")
    return given


def _measure(name: str, given: argparse.Namespace, sizes: Sizes, deployment: Deployment) -> Profile:
    folder = given.out / name
    folder.mkdir()
    _, start = SYSTEMS[name]
    print(f"starting {name}", flush=True)
    with start(Setup(deployment=deployment, kv_tokens=given.kv_tokens, log_dir=folder)) as served:
        _warm_up(served)
        sessions = folder / "sessions.jsonl"
        write_sessions(sessions, sizes, served.models)
        load = Load(
            url=served.url,
            sessions=sessions,
            num_sessions=sizes.num_sessions,
            concurrency=given.concurrency,
            tokenizer=locate(deployment.prefill),
            api_key=served.api_key,
        )
        profile = run_aiperf(given.aiperf, load, folder / "aiperf", _TIMEOUT_S)
    print(f"{name}: {profile.find('request_throughput'):.2f} requests/s", flush=True)
    return profile


def _warm_up(served: Served) -> None:
    """The first calls of an engine are slower; their text is in no session."""
    for number in range(_WARM_UPS):
        for model in served.models:
            body = {"model": model, "messages": [{"role": "user", "content": f"warm {number}"}], "max_tokens": 8}
            reply = direct.post(
                f"{served.url}/v1/chat/completions", json=body, headers=auth_header(served.api_key), timeout=120
            )
            if reply.status_code != httpx.codes.OK:
                sys.exit(f"error: {model} answered {reply.status_code}: {reply.text[:300]}")


def _version(program: Path) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "of unknown version"


if __name__ == "__main__":
    main()
