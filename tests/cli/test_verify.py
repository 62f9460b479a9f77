"""`prefillshare verify`: a deployment beside the reference, and one that serves other modules than the file says."""

from dataclasses import replace
from itertools import pairwise

import pytest

from prefillshare.bench.verify import Sample, verify
from prefillshare.cli.app import app
from prefillshare.errors import BenchError
from prefillshare.serving.launch import RunningDeployment

SAMPLE = Sample(num_prompts=3, num_tokens=6)


def test_a_deployment_answers_as_the_reference_and_other_modules_do_not(random_server: RunningDeployment) -> None:
    deployment = random_server.deployment.config
    found = verify(deployment, random_server.url, None, SAMPLE)
    assert [(figures["exact"], figures["compared"]) for figures in found.values()] == [(3, 3)] * 3
    # The file now says that each name stands for another module's weights.
    paths = [module.path for module in deployment.decode]
    exchanged = [
        replace(module, path=path) for module, path in zip(deployment.decode, paths[1:] + paths[:1], strict=True)
    ]
    found = verify(replace(deployment, decode=tuple(exchanged)), random_server.url, None, SAMPLE)
    assert any(figures["exact"] < figures["compared"] for figures in found.values())
    assert all(figures["token_agreement"] < 1 for figures in found.values() if figures["exact"] < figures["compared"])


def test_prompts_fork_as_conversations_do_and_follow_from_the_seed() -> None:
    prompts = Sample(num_prompts=20).prompts()
    assert prompts == Sample(num_prompts=20).prompts() != Sample(num_prompts=20, seed=2).prompts()
    assert all(2 <= len(prompt) <= 200 for prompt in prompts)
    assert all(
        after[: min(len(after) // 2, len(before))] == before[: len(after) // 2] for before, after in pairwise(prompts)
    )


def test_a_server_that_does_not_answer_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match=r"127\.0\.0\.1:9"):
        app(["verify", "--url", "http://127.0.0.1:9"], standalone_mode=False)
    assert capsys.readouterr().out == ""
