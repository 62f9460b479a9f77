"""Problems are deterministic, right by construction, and the two splits never meet."""

import re
from itertools import islice
from random import Random

import pytest

from prefillshare.tiny.language.conversations import TASKS, held_out_conversations, tuning_conversations
from prefillshare.tiny.language.corpus import sample_document
from prefillshare.tiny.language.tasks import SAMPLERS, split_of
from prefillshare.tiny.language.tasks.code import FILTERS, MAPS, REDUCES
from prefillshare.tiny.language.workspace import WorkspaceSize, sample_workspace


def sample(task, seed, num, wording="own"):
    rng = Random(seed)
    return [SAMPLERS[task](rng, sample_workspace(rng, WorkspaceSize()), wording) for _ in range(num)]


@pytest.mark.parametrize("task", TASKS)
def test_equal_seeds_give_equal_problems(task):
    assert sample(task, 4, 20) == sample(task, 4, 20)
    assert sample(task, 4, 20) != sample(task, 5, 20)


@pytest.mark.parametrize("task", TASKS)
def test_splits_are_disjoint(task):
    trained = {
        (problem.workspace.render(), problem.question)
        for conversation in islice(tuning_conversations(1, task), 300)
        for problem in conversation.problems
    }
    asked = [conversation.problems[-1] for conversation in islice(held_out_conversations(1, task), 300)]
    assert {split_of(problem) for problem in asked} == {"test"}
    assert {problem.task for problem in asked} == {task}
    assert not trained & {(problem.workspace.render(), problem.question) for problem in asked}
    assert all(split_of(p) == "train" for c in islice(tuning_conversations(1, task), 50) for p in c.problems)


@pytest.mark.parametrize("task", TASKS)
def test_the_corpus_never_asks_in_the_words_that_fine_tuning_teaches(task):
    """Otherwise the base knew them, and an ordinary adapter lost nothing over the base's KV."""
    plain = {problem.question for problem in sample(task, 6, 400, "plain")}
    assert not plain & {problem.question for problem in sample(task, 6, 400, "own")}


def test_share_of_the_test_split():
    share = sum(split_of(problem) == "test" for problem in sample("math", 1, 2000)) / 2000
    assert 0.09 < share < 0.16


def test_math_answers_add_up():
    for problem in sample("math", 2, 500):
        steps = re.findall(r"(\d+) ([-+*]) (\d+) = <<(\S+)=(\d+)>>(\d+)", problem.answer)
        assert 2 <= len(steps) <= 3
        for left, sign, right, inside, result, shown in steps:
            assert inside == f"{left}{sign}{right}"
            assert eval(inside) == int(result) == int(shown)
        assert [step[5] for step in steps[:-1]] == [step[0] for step in steps[1:]]
        assert problem.answer.endswith(f"\n#### {steps[-1][5]}")
        assert 0 <= problem.judge["final"] < 200


def test_tool_calls_fit_one_listed_function():
    for problem in sample("tool", 2, 300):
        call = problem.judge["call"]
        (function,) = [function for function in problem.workspace.functions if function.name == call["name"]]
        assert len(problem.workspace.functions) >= 4
        assert sorted(call["arguments"]) == sorted(name for name, _ in function.parameters)
        for name, kind in function.parameters:
            assert isinstance(call["arguments"][name], {"string": str, "integer": int}[kind])
            assert f"{name} {call['arguments'][name]}" in problem.question


def test_code_specifications_are_many():
    assert len(FILTERS) * len(MAPS) * len(REDUCES) >= 40


def test_documents_are_deterministic():
    for progress in (0.0, 0.1, 0.3, 0.9):
        assert sample_document(Random(3), progress) == sample_document(Random(3), progress)


def test_expert_answers_of_the_assistant_weigh_nothing_in_the_corpus():
    rng = Random(9)
    for _ in range(200):
        role = ""
        for piece in sample_document(rng, 0.9):
            if piece.text.startswith("<|im_start|>"):
                role = piece.text.removeprefix("<|im_start|>").strip()
            elif role == "assistant" and ("####" in piece.text or "return" in piece.text):
                assert piece.weight == 0.0
