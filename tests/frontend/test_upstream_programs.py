"""SGLang's own frontend programs run against both topologies; `upstream.py` says which and what is expected."""

import inspect

import pytest
from sglang.test import test_programs as upstream_programs

from tests.frontend import upstream
from tests.frontend.conftest import API_KEY, Deployment

UNJUDGED = [program for program in upstream.PROGRAMS if not program.is_judged]
JUDGED = [program for program in upstream.PROGRAMS if program.is_judged]


@pytest.mark.parametrize("program", UNJUDGED, ids=lambda program: program.name)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_program_of_sglang_passes(deployment: Deployment, left_open, program: upstream.Program) -> None:
    result = upstream.run(program, deployment.url, "math", API_KEY)
    assert result.outcome == "passes", result.detail


@pytest.mark.parametrize("deployment", ["colocated"], indirect=True, scope="package")
@pytest.mark.parametrize("program", JUDGED, ids=lambda program: program.name)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_of_a_program_that_judges_the_model_no_call_fails(
    deployment: Deployment, left_open, program: upstream.Program
) -> None:
    """They ask for nothing that the others do not ask for, so one topology will do."""
    result = upstream.run(program, deployment.url, "math", API_KEY)
    assert result.outcome in ("passes", "content"), result.detail


def test_every_program_of_sglang_is_accounted_for() -> None:
    names = {name for name, _ in inspect.getmembers(upstream_programs, inspect.isfunction) if name.startswith("test_")}
    assert names == {program.name for program in upstream.PROGRAMS} | set(upstream.NOT_APPLICABLE)


@pytest.mark.usefixtures("left_open")
def test_a_program_whose_calls_fail_is_no_pass(deployment: Deployment) -> None:
    """The runner must see it, though the program itself may not."""
    assert upstream.run(upstream.PROGRAMS[0], deployment.url, "math", "wrong").outcome == "error"
    speculative = upstream.Program(name="test_chat_completion_speculative")
    result = upstream.run(speculative, deployment.url, "math", API_KEY)
    assert result.outcome == "error"
    assert "is_chat_model" in result.detail
