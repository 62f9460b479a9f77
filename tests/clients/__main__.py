"""Try every client with the tiny family served both ways: `make test-clients`.

python -m tests.clients            # exit status 1 when a client fails, or when docs/api.md says otherwise
python -m tests.clients --write    # and write the table into docs/api.md
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from prefillshare.serving.machine.ports import free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api.md"
BLOCK = re.compile(r"(?<=<!-- made by python -m tests.clients -->\n\n)\|.*?(?=\n\n|\Z)", re.DOTALL)
DEPLOYMENTS = {"one engine": "tiny-agents.toml", "router before workers": "tiny-agents-pd.toml"}
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
START_S, STOP_S = 900.0, 120.0
Results = dict[str, dict[str, str]]
"""By client, by what was tried: "yes" or what went wrong."""


@contextlib.contextmanager
def served(file: str) -> Iterator[str]:
    """Serve a deployment file of models/; give its address."""
    port = free_port()
    command = [sys.executable, "-m", "prefillshare", "launch", str(ROOT / "models" / file), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url, process)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(STOP_S)


def wait_until_healthy(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Raises: SystemExit when it ends or takes too long."""
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=10).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("error: the deployment did not start: start it by hand with `prefillshare launch`")
        time.sleep(0.5)


def try_deployment(python: str, file: str) -> Results:
    """Return what came of every case with one deployment."""
    with served(file) as url:
        return try_clients(python, url)


def try_clients(python: str, url: str) -> Results:
    """Return what came of every case."""
    # One of the clients would ask the network for prices; what they write about calls that fail on purpose is noise.
    quiet = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [python, "-W", "ignore", str(Path(__file__).with_name("cases.py")), url],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=quiet,
        check=True,
    )
    found: Results = json.loads(done.stdout.splitlines()[-1])
    return found


def make_table(found: dict[str, Results]) -> str:
    """Return the table of docs/api.md."""
    versions = dict(re.findall(r"^([a-z-]+)==([\w.]+)", REQUIREMENTS.read_text(), re.MULTILINE))
    first = next(iter(found.values()))
    rows = [
        f"| {client} {versions[client]} | {', '.join(cases)} | "
        + " | ".join(summarize(results[client]) for results in found.values())
        + " |"
        for client, cases in first.items()
    ]
    names = " | ".join(found)
    return "\n".join([f"| client | tried | {names} |", "|---|---|" + "---|" * len(found), *rows])


def summarize(results: dict[str, str]) -> str:
    """Return one cell: all, or what failed."""
    failed = [what for what, result in results.items() if result != "yes"]
    return f"all but {', '.join(failed)}" if failed else "all"


def main() -> int:
    """Run all and compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=str(ROOT / ".clients" / "bin" / "python"))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda file: try_deployment(given.python, file), DEPLOYMENTS.values())
        found = dict(zip(DEPLOYMENTS, results, strict=True))
    failures = [
        f"{name}: {client}, {what}: {result}"
        for name, results in found.items()
        for client, cases in results.items()
        for what, result in cases.items()
        if result != "yes"
    ]
    table, page = make_table(found), PAGE.read_text()
    print("\n".join([table, *failures]))
    if given.write:
        PAGE.write_text(BLOCK.sub(lambda _: table, page))
        return int(bool(failures))
    told = BLOCK.search(page)
    if told is None or told[0] != table:
        print(f"error: {PAGE} says otherwise: run `python -m tests.clients --write`", file=sys.stderr)
        return 1
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
