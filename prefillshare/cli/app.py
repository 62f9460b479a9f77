"""The root of the command line.

Commands are imported when they are called: `--help` of each must answer in under half a second.
"""

import contextlib
import os
import sys
from typing import Annotated

import typer

from prefillshare.cli.commands import (
    adapt,
    ask,
    bench,
    chat,
    check,
    convert,
    doctor,
    evaluate,
    grow,
    init,
    launch,
    logs,
    models,
    modules,
    ps,
    quantize,
    router,
    scale,
    schema,
    simulate,
    stop,
    store,
    tenants,
    top,
    train,
    verify,
    worker,
)
from prefillshare.cli.errors import DEBUG_VARIABLE, run_reporting_errors
from prefillshare.cli.shells import prepare_completion
from prefillshare.cli.text import print_all_text
from prefillshare.errors import ConfigError
from prefillshare.places import missing_variables

app = typer.Typer(
    name="prefillshare",
    help="Serve several fine-tuned models over one shared prefill, on SGLang.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: drawing it would double the time it takes.
    rich_markup_mode=None,
)
app.command("launch")(launch.launch)
app.command("router")(router.router)
app.command("worker")(worker.worker)
app.command("ask")(ask.ask)
app.command("chat")(chat.chat)
app.command("ps")(ps.ps)
app.command("top")(top.top)
app.command("logs")(logs.logs)
app.command("add")(modules.add)
app.command("remove")(modules.remove)
app.command("reload")(modules.reload)
app.command("alias")(modules.alias)
app.command("scale")(scale.scale)
app.command("stop")(stop.stop)
app.command("bench")(bench.bench)
app.command("simulate")(simulate.simulate)
app.command("doctor")(doctor.doctor)
app.command("init")(init.init)
app.command("convert")(convert.convert)
app.command("schema")(schema.schema)
app.command("verify")(verify.verify)
app.command("train")(train.train)
app.command("check")(check.check)
app.command("adapt")(adapt.adapt)
app.command("quantize")(quantize.quantize)
app.command("eval")(evaluate.evaluate)
app.add_typer(grow.app, name="grow")
app.add_typer(models.app, name="models")
app.add_typer(store.app, name="store")
app.add_typer(tenants.app, name="tenants")


def _show_version(wanted: bool) -> None:
    if wanted:
        from prefillshare import __version__

        print(f"prefillshare {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Serve several fine-tuned models over one shared prefill, on SGLang."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    with contextlib.suppress(ConfigError):  # said by what needs the place
        os.environ.update(missing_variables())


def main() -> None:
    """Run the command line and exit with the code that fits what happened."""
    # Usage errors and --help leave through SystemExit, with their own codes.
    print_all_text()
    prepare_completion(sys.argv[1:], os.environ)
    sys.exit(run_reporting_errors(app))


if __name__ == "__main__":
    main()
