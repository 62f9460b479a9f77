"""`prefillshare doctor`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from prefillshare.cli.config_options import Changes
from prefillshare.cli.output import paint, put, put_json, say

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(
    file: Annotated[
        Path | None, typer.Argument(help="Deployment file to check along; the tiny family's if none.")
    ] = None,
    changes: Changes = None,
    host: Annotated[str, typer.Option(help="Address that a server would listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port that a server would listen on.")] = 30000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as one line of JSON.")] = False,
) -> None:
    """Check whether this machine can serve.

    Says what to do where it cannot; the exit code is 1 then.
    """
    from dataclasses import asdict

    from prefillshare.serving.checkup import examine
    from prefillshare.serving.embedded import embedded_deployment

    findings = examine(host, port, file or embedded_deployment(), changes or ())
    problems = [finding for finding in findings if finding.state == "problem"]
    if as_json:
        put_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            state = paint(f"{finding.state:<8}", _COLOURS[finding.state], sys.stdout)
            put(f"{state} {finding.name:<11} {finding.value}")
            if finding.fix:
                put(f"{'':<8} {'':<11} {finding.fix}")
    if problems:
        say(f"{len(problems)} problem(s): {', '.join(finding.name for finding in problems)}")
        raise typer.Exit(1)
    words = ["prefillshare launch", *([shlex.quote(str(file))] if file else [])]
    words += [f"--set {shlex.quote(text)}" for text in changes or ()]
    words += [f"--host {host}"] if host != "127.0.0.1" else []
    words += [f"--port {port}"] if port != 30000 else []
    say(f"ready to serve: `{' '.join(words)}`")
