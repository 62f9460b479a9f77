"""Which module a name means: names, aliases, weights, sessions."""

from collections import Counter

import pytest

from prefillshare.errors import ConfigError
from prefillshare.naming.alias import as_table, check_aliases, read_alias, read_aliases
from prefillshare.naming.asked import Asked
from prefillshare.naming.names import Names

MODULES = ("math-v1", "math-v2", "code")
SESSIONS = [f"session-{number}" for number in range(4000)]


def names(**meanings: object) -> Names:
    """The names of a deployment with these aliases."""
    return Names(base="base", modules=MODULES, aliases=read_aliases(meanings))


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
