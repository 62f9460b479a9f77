"""One engine over random weights, shared by every test that needs an answer rather than a particular start."""

import contextlib

import pytest

from prefillshare.serving.launch import RunningDeployment, running_deployment
from tests.support.forks import fork_server
from tests.support.marks import starts_engine
from tests.support.random_models import make_family

_started: list[RunningDeployment] = []


@pytest.fixture(scope="session")
@starts_engine
def random_server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> RunningDeployment:
    """A served deployment with the decode modules math, tool and code over random-base.

    Several conftest files import this fixture; the engine is started once per test session all the same.
    """
    if not _started:
        stack = contextlib.ExitStack()
        file = make_family(tmp_path_factory.mktemp("random-family"))
        _started.append(stack.enter_context(running_deployment(file, fork_server=fork_server)))
        pytestconfig.add_cleanup(stack.close)
    return _started[0]
