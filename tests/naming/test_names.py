"""Which module a name means: names, aliases, weights, sessions."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from prefillshare.errors import ConfigError
from prefillshare.naming.alias import AnyAlias, as_table, check_aliases, read_alias, read_aliases
from prefillshare.naming.asked import Asked, last_words
from prefillshare.naming.bodies import find_undecided, replace_aliases
from prefillshare.naming.names import Names
from prefillshare.naming.rules import MAX_RULES, MOST_CHARACTERS, ByRules, rule_headers

MODULES = ("math-v1", "math-v2", "code")
SESSIONS = [f"session-{number}" for number in range(4000)]


def judge(states: Sequence[object]) -> dict[str, float]:
    """A classifier to which each prompt's state is how likely `code` is."""
    likely = sum(map(float, states)) / len(states)  # type: ignore[arg-type]
    return {"code": likely, "latest": 1 - likely}


def names(**meanings: object) -> Names:
    """The names of a deployment with these aliases, whose classifiers were read."""
    aliases = read_aliases(meanings)
    return Names(base="base", modules=MODULES, aliases={name: with_judge(alias) for name, alias in aliases.items()})


def with_judge(alias: AnyAlias) -> AnyAlias:
    return replace(alias, judge=judge) if isinstance(alias, ByRules) and alias.classifier is not None else alias


def meant_by(asked: Names, session: str) -> str | None:
    """The module that answers a session's calls."""
    return asked.find(Asked(name="math", session=session))


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("code", "code"),
        ("base:code", "code"),
        ("base : code", "code"),
        ("base", "base"),
        ("latest", "math-v2"),
        ("base:latest", "math-v2"),
        ("nope", None),
        ("other:code", None),
        ("base:", None),
        ("", None),
    ],
)
def test_a_name_means_one_module(name: str, module: str | None) -> None:
    assert names(latest="math-v2").find(Asked(name=name)) == module


def test_sessions_stay_and_come_by_weight() -> None:
    asked = names(math={"math-v1": 0.9, "math-v2": 0.1})
    first = {session: meant_by(asked, session) for session in SESSIONS}
    assert first == {session: meant_by(names(math={"math-v1": 0.9, "math-v2": 0.1}), session) for session in SESSIONS}
    assert 300 < Counter(first.values())["math-v2"] < 500


def test_a_change_of_weights_moves_sessions_one_way_only() -> None:
    before, after = names(math={"math-v1": 9, "math-v2": 1}), names(math={"math-v1": 5, "math-v2": 5})
    moves = Counter((meant_by(before, session), meant_by(after, session)) for session in SESSIONS)
    assert moves["math-v2", "math-v1"] == 0
    assert 1400 < moves["math-v1", "math-v2"] < 1800


def test_calls_without_a_session_are_drawn() -> None:
    asked = names(math={"math-v1": 3, "math-v2": 1, "code": 0})
    drawn = [asked.find(Asked(name="math"), lambda number=number: number / 100) for number in range(100)]
    assert Counter(drawn) == {"math-v1": 75, "math-v2": 25}
    assert drawn[74:76] == ["math-v1", "math-v2"]


@pytest.mark.parametrize(
    ("meaning", "reason"),
    [
        (5, "alias 'math' is 5: name a module"),
        ("", "name a module"),
        ({}, "name a module"),
        ({"math-v1": "0.9"}, "the weight '0.9': it must be a number of at least 0"),
        ({"math-v1": -1}, "it must be a number of at least 0"),
        ({"math-v1": float("nan")}, "it must be a number of at least 0"),
        ({"math-v1": True}, "it must be a number of at least 0"),
        ({"math-v1": 0}, "has no weight above 0"),
        ({"math-v1": 10**400}, "it must be a number of at least 0"),
        ({"math-v1": float("inf")}, "it must be a number of at least 0"),
        ({"math-v1": 1e308, "math-v2": 1e308}, "weights too large to add up"),
    ],
)
def test_what_an_alias_cannot_mean(meaning: object, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_alias("math", meaning)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"code": "math-v1"}, "alias 'code' is also the name of a module"),
        ({"base": "math-v1"}, "alias 'base' is also the name of a module"),
        ({"math": "math-v3"}, "means 'math-v3', which is no decode module of math-v1, math-v2, code"),
    ],
)
def test_what_a_deployment_cannot_call_its_modules(table: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_aliases(read_aliases(table), "base", MODULES)


def test_a_table_is_written_as_it_was_read() -> None:
    table = {"latest": "math-v2", "math": {"math-v1": 0.9, "math-v2": 0.1}}
    assert as_table(read_aliases(table)) == table


RULES = {
    "default": "math-v1",
    "rules": [
        {"module": "code", "text": "(?i)def", "header": "X-Kind", "value": "a|b"},
        {"module": "latest", "text": "sum"},
    ],
}


def chosen(text: str, **headers: str) -> str | None:
    asked = Asked(name="auto", says=lambda: text, header=headers.get)
    return names(auto=RULES, latest="math-v2").find(asked)


def test_the_first_rule_of_which_everything_fits_wins() -> None:
    assert chosen("DEF and sum", **{"X-Kind": "a"}) == "code"
    assert chosen("def and sum", **{"X-Kind": "ab"}) == "math-v2"
    assert chosen("def and sum") == "math-v2"
    assert chosen("nothing", **{"X-Kind": "a"}) == "math-v1"


def test_of_a_long_text_its_ends_are_looked_at() -> None:
    ends = MOST_CHARACTERS // 2
    assert chosen("sum" + "x" * 3 * ends) == chosen("x" * 3 * ends + "sum") == "math-v2"
    assert chosen("x" * 2 * ends + "sum" + "x" * 2 * ends) == "math-v1"


def test_rules_are_written_as_they_are_read() -> None:
    aliases = read_aliases({"auto": RULES})
    assert as_table(aliases) == {"auto": RULES}
    assert rule_headers(aliases) == ("X-Kind",)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, "b"]}]}, "a\nb"),
        ({"messages": [{"role": "system", "content": "a"}, 3]}, ""),
        ({"messages": "a"}, ""),
        ({"input": "a"}, "a"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]}, "a"),
        ({"prompt": "a"}, "a"),
        ({"prompt": ["a", "b"]}, "a\nb"),
        ({"prompt": [1, 2]}, ""),
        ({"text": "a", "input_ids": None}, "a"),
        ({}, ""),
    ],
)
def test_what_is_said_last(body: dict[str, object], words: str) -> None:
    assert last_words(body) == words


@pytest.mark.parametrize(
    ("meaning", "reason"),
    [
        ({"rules": []}, "no default"),
        ({"default": "math-v1", "rules": "a"}, "write a list of tables"),
        ({"default": "math-v1", "rules": [{"text": "a"}]}, "names no module"),
        ({"default": "math-v1", "rules": [{"module": "code"}]}, "neither text nor header"),
        ({"default": "math-v1", "rules": [{"module": "code", "text": "("}]}, "is no pattern of RE2"),
        ({"default": "math-v1", "rules": [{"module": "code", "value": "a", "text": "b"}]}, "no header"),
        ({"default": "math-v1", "rules": [{"module": "code", "header": "a b"}]}, "give a header's name"),
        ({"default": "math-v1", "rules": [{"module": "code", "words": "a"}]}, "'words'"),
        ({"default": "math-v1", "rules": [{"module": "code", "text": 3}]}, "table of texts"),
        ({"default": "math-v1", "rules": [], "weights": {}}, "'weights'"),
        ({"default": "nope", "rules": []}, "'nope', which is no decode module or alias of"),
        (
            {"default": "math-v1", "rules": [{"module": "auto", "text": "a"}]},
            "'auto', which is no decode module or alias of",
        ),
    ],
)
def test_rules_that_cannot_be_are_refused(meaning: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        check_aliases(read_aliases({"auto": meaning}), "base", MODULES)


def test_who_may_ask_some_modules_knows_the_names_that_mean_no_other() -> None:
    asked = names(auto=RULES, latest="math-v2", v1="math-v1", mine={"default": "v1", "rules": []})
    assert list(asked.only(lambda module: module != "math-v2").aliases) == ["v1", "mine"]
    assert list(asked.only(lambda module: True).aliases) == ["auto", "latest", "v1", "mine"]


def test_results_of_tools_say_nothing_in_the_users_name() -> None:
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "42"}]}
    turns = [{"role": "user", "content": "how many?"}, {"role": "assistant", "content": "wait"}, result]
    assert last_words({"messages": turns}) == "how many?"
    assert last_words({"messages": [*turns, {"role": "user", "content": [{"type": "text", "text": "and now?"}]}]}) == (
        "and now?"
    )
    assert last_words({"messages": [result]}) == ""
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    assert last_words({"messages": [{"role": "user", "content": None}, picture]}) == ""


def test_what_a_call_says_is_read_once_for_all_rules() -> None:
    rules = [{"module": "code", "text": f"word {number}"} for number in range(MAX_RULES)]
    asked = names(auto={"default": "math-v1", "rules": rules})
    num_read = 0

    def says() -> str:
        nonlocal num_read
        num_read += 1
        return "none of them"

    assert asked.find(Asked(name="auto", says=says)) == "math-v1"
    assert num_read == 1
    with pytest.raises(ConfigError, match=f"has {MAX_RULES + 1} rules, and {MAX_RULES} are the most"):
        read_alias("auto", {"default": "math-v1", "rules": [*rules, rules[0]]})


CLASSIFIED = {"default": "math-v1", "classifier": "/heads/a", "min_probability": 0.5, "labels": ["code", "latest"]}
CLASSIFIED["classifier_sha256"] = "ab"


def classified(states: list[float]) -> Asked:
    """A call whose prompts the prefill module has seen."""
    return Asked(name="auto", says=lambda: "def", states=states)


def test_a_classifier_decides_what_no_rule_does() -> None:
    known = names(auto=CLASSIFIED, latest="math-v2")
    assert known.find(classified([0.9])) == "code"
    assert known.find(classified([0.2])) == "math-v2"
    with_rule = names(auto={**CLASSIFIED, "rules": [{"module": "math-v2", "text": "def"}]}, latest="math-v2")
    assert with_rule.find(classified([0.9])) == "math-v2"


def test_a_classifier_that_is_not_sure_leaves_it_to_the_default() -> None:
    assert names(auto={**CLASSIFIED, "min_probability": 0.95}, latest="math-v2").find(classified([0.9])) == "math-v1"
    assert names(auto=CLASSIFIED, latest="math-v2").find(Asked(name="auto")) == "math-v1"


def test_a_name_is_undecided_until_its_classifier_has_seen_the_prompt() -> None:
    known = names(auto=CLASSIFIED, latest="math-v2")
    body = {"model": "base:auto", "messages": []}
    assert find_undecided(body, known, Asked()) == "auto"
    assert find_undecided({"lora_path": ["math-v1", "auto"]}, known, Asked()) == "auto"
    for clear in ({"model": "latest"}, {"model": "math-v1"}, {"model": 3}, {}):
        assert find_undecided(clear, known, Asked()) is None
    assert find_undecided(body, known, classified([0.9])) is None
    ruled = names(auto={**CLASSIFIED, "rules": [{"module": "code", "text": "def"}]}, latest="math-v2")
    assert find_undecided({"model": "auto"}, ruled, Asked(says=lambda: "def")) is None
    assert find_undecided({"model": "auto"}, ruled, Asked(says=lambda: "other")) == "auto"


def test_each_prompt_of_a_batch_is_judged_by_its_own_state() -> None:
    known = names(auto=CLASSIFIED, latest="math-v2")
    body = {"lora_path": ["auto", "math-v1", "auto"]}
    assert replace_aliases(body, known, classified([0.9, 0.9, 0.1])) == {"lora_path": ["code", "math-v1", "math-v2"]}
    assert replace_aliases({"model": "auto"}, known, classified([0.9, 0.9, 0.1])) == {"model": "code"}


def test_a_classifier_is_written_as_it_is_read() -> None:
    aliases = read_aliases({"auto": CLASSIFIED, "latest": "math-v2"})
    assert as_table(aliases) == {"auto": {**CLASSIFIED, "rules": [], "classifier_sha256": "ab"}, "latest": "math-v2"}
    assert aliases["auto"].targets == ("math-v1", "code", "latest")


@pytest.mark.parametrize(
    ("meaning", "reason"),
    [
        ({"classifier": "a"}, "has no default"),
        ({"default": "math-v1", "classifier": 3}, "classifier = 3: name the directory"),
        ({"default": "math-v1", "classifier": " "}, "name the directory that `prefillshare train --router` made"),
        ({"default": "math-v1", "classifier": "a", "min_probability": 2}, "must lie between 0 and 1"),
        ({"default": "math-v1", "classifier": "a", "min_probability": True}, "must lie between 0 and 1"),
        ({"default": "math-v1", "rules": [], "min_probability": 0.5}, "min_probability and no classifier"),
        ({"default": "math-v1", "classifier": "a", "labels": "code"}, "leave them out"),
        ({"default": "math-v1", "classifier": "a", "classifier_sha256": 3}, "classifier_sha256 = 3: leave it out"),
        ({"default": "math-v1", "classifier": "a", "threshold": 1}, "'threshold'"),
        (
            {"default": "math-v1", "classifier": "a", "labels": ["code", "law"]},
            "has the label 'law', which is no decode",
        ),
    ],
)
def test_a_classifier_that_cannot_be_is_refused(meaning: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        check_aliases(read_aliases({"auto": meaning}), "base", MODULES)


def test_who_may_not_ask_a_label_does_not_know_the_classifier() -> None:
    known = names(auto=CLASSIFIED, latest="math-v2")
    assert list(known.only(lambda module: module != "code").aliases) == ["latest"]
    assert list(known.only(lambda module: True).aliases) == ["auto", "latest"]
