"""What `prefillshare worker` and `prefillshare router` say when they cannot begin."""

import os
import subprocess
import sys

import pytest

from tests.support.engines import MODELS_DIR

DISAGGREGATED = str(MODELS_DIR / "tiny-agents-pd.toml")
COLOCATED = str(MODELS_DIR / "tiny-agents.toml")
JOIN = ("--join", "http://127.0.0.1:30000")
CASES = {
    "no key": (("worker", DISAGGREGATED, "--role", "prefill", *JOIN), {}, "PREFILLSHARE_ADMIN_KEY"),
    "no key of the router": (("router", DISAGGREGATED), {}, "PREFILLSHARE_ADMIN_KEY"),
    **{
        f"key of {command[0]} that no header takes": (
            (*command, "--admin-key", "k\xfc"),
            {},
            r"admin_key 'k\xfc' cannot be sent: a key is printable ASCII",
        )
        for command in (("worker", DISAGGREGATED, "--role", "prefill", *JOIN), ("router", DISAGGREGATED))
    },
    "key of clients that no header takes": (
        ("launch", DISAGGREGATED, "--api-key", "k\xfc"),
        {},
        r"api_key 'k\xfc' cannot be sent: a key is printable ASCII",
    ),
    "no module": (("worker", DISAGGREGATED, "--role", "decode", *JOIN), None, "needs --module: choose one of math, "),
    "unknown module": (
        ("worker", DISAGGREGATED, "--role", "decode", "--module", "maths", *JOIN),
        None,
        "no module 'maths': choose one of math, ",
    ),
    "module of all": (("worker", DISAGGREGATED, "--role", "prefill", "--module", "math", *JOIN), None, "leave it out"),
    "colocated": (("worker", COLOCATED, "--role", "prefill", *JOIN), None, 'topology = "colocated"'),
    "colocated router": (("router", COLOCATED), None, "use `launch`"),
    "no router": (
        ("worker", DISAGGREGATED, "--role", "prefill", "--join", "10.0.0.1:30000"),
        None,
        "--join '10.0.0.1:30000' is not the address of a router",
    ),
    **{
        f"no address {url}": (
            ("worker", DISAGGREGATED, "--role", "prefill", "--join", url),
            None,
            f"--join {url!r} is not the address of a router",
        )
        for url in ("http://[abc", "http://127.0.0.1:70000", "http://a b:1", "http://key@a:1", "http://a:1#b")
    },
    "address of another": (
        ("worker", DISAGGREGATED, "--role", "prefill", *JOIN, "--host", "203.0.113.77"),
        None,
        "203.0.113.77 is no address of this machine: use one of 127.0.0.1",
    ),
    "peer without a scheme": (
        ("router", DISAGGREGATED, "--peers", "http://10.0.0.1:30000,10.0.0.2:30000"),
        None,
        "--peers '10.0.0.2:30000' is not the address of a router",
    ),
    "peers and no own address": (
        ("router", DISAGGREGATED, "--host", "0.0.0.0", "--peers", "http://10.0.0.1:30000"),
        None,
        "0.0.0.0 is no address at which other routers reach this one: add --address",
    ),
    "every address": (
        ("worker", DISAGGREGATED, "--role", "prefill", *JOIN, "--host", "0.0.0.0"),
        None,
        "0.0.0.0 is no address of this machine",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_said_in_one_line(name: str) -> None:
    arguments, variables, reason = CASES[name]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFILLSHARE_")}
    environment |= {"PREFILLSHARE_ADMIN_KEY": "a"} if variables is None else variables
    done = subprocess.run(
        [sys.executable, "-m", "prefillshare", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert reason in line
