"""A run of training from the command line: planned, run, and what is said in the end."""

import os

from prefillshare.config.router_training import RouterTraining
from prefillshare.config.training import Training


def run_training(training: Training, *, resume: bool, dry_run: bool, as_json: bool) -> None:
    """Plan or run; print the plan, or the directory of the module and how it is served.

    Raises: TrainingError as the run does.
    """
    from prefillshare.cli.output import put, put_json, say
    from prefillshare.training.finetune.run import Finetune
    from prefillshare.training.progress import make_reporter

    with make_reporter() as reporter:
        run = Finetune(training, reporter)
        if dry_run:
            plan = run.plan()
            put_json(plan.figures) if as_json else put("\n".join(plan.lines))
            return
        is_speaker = int(os.environ.get("RANK", "0")) == 0  # one of several processes
        try:
            module = run.run(resume=resume)
        except (KeyboardInterrupt, SystemExit):
            if is_speaker and (kept := run.what_is_kept()):
                reporter.say(kept)
            raise
    if not is_speaker:
        return
    put_json({"module": str(module)}) if as_json else put(str(module))
    say(f'serve it: a [[decode]] table with kind = "{training.kind}" and path = "{module}"')


def run_router_training(training: RouterTraining, *, dry_run: bool, as_json: bool) -> None:
    """Plan or run the training of a classifier; print the plan, or its directory and how it is used.

    Raises: TrainingError as the run does.
    """
    from prefillshare.cli.output import put, put_json, say
    from prefillshare.training.progress import make_reporter
    from prefillshare.training.router.run import RouterRun

    with make_reporter() as reporter:
        run = RouterRun(training, reporter)
        if dry_run:
            plan = run.plan()
            put_json(plan.figures) if as_json else put("\n".join(plan.lines))
            return
        directory, trial = run.run()
    put_json({"classifier": str(directory), **trial.as_dict()}) if as_json else put(str(directory))
    default = training.modules[0].name
    say(f'use it: [aliases.auto] with default = "{default}" and classifier = "{directory}"')
