"""Names behind which rules or a classifier choose: `"model": "auto"` and what the call says decide who answers.

The first rule that fits wins, else the module that the classifier finds likeliest, else the default. Patterns are
RE2's, which take linear time, over a bounded part of what the user said last: nobody's text holds up anybody else's
call.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from prefillshare.errors import ConfigError, short_repr
from prefillshare.naming.asked import Asked, Judge

MOST_CHARACTERS = 16_384
"""Of a text, so many are looked at: the first half of them and the last."""
MAX_RULES = 256
"""Of one alias: each may search the whole of that text."""
_MEMBERS = ("module", "text", "header", "value")
_KEYS = ("default", "rules", "classifier", "min_probability", "labels", "classifier_sha256")
_MAX_MEMORY = 8 << 20
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a module answers: everything that is given must fit; of a call's text only a bounded part is given."""

    module: str
    """Decode module, or an alias of one or several."""
    text: str | None = None
    """Pattern that is searched in what the user says last."""
    header: str | None = None
    """Name of a header of the call."""
    value: str | None = None
    """Pattern that the header's whole value must fit; None wants the header alone."""

    def fits(self, asked: Asked) -> bool:
        """Return whether the call is one of those that the rule is for."""
        if self.header is not None and not self._fits_header(asked.header(self.header)):
            return False
        return self._text is None or self._text.search(asked.says()) is not None

    def _fits_header(self, value: str | None) -> bool:
        return value is not None and (self._value is None or self._value.fullmatch(value) is not None)

    # Compiled when a call first needs it, and once.
    @cached_property
    def _text(self) -> Any:
        return None if self.text is None else compile_pattern(self.text)

    @cached_property
    def _value(self) -> Any:
        return None if self.value is None else compile_pattern(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByRules:
    """One name for the module that the call's words or headers choose."""

    name: str
    """Name that clients put into "model"."""
    default: str
    """Module, or alias, where no rule fits and no classifier is sure enough."""
    rules: tuple[Rule, ...] = ()
    """Tried in their order."""
    classifier: str | None = None
    """Directory of a classifier, which is asked where no rule fits; None where there is none."""
    min_probability: float = 0.0
    """How likely its choice must be; where it is less, the default answers."""
    labels: tuple[str, ...] = ()
    """Modules or aliases that the classifier chooses from, once it was read (`prefillshare.modules.heads`)."""
    classifier_sha256: str | None = None
    """Hash of the classifier's files as they were read; another process that reads others has another classifier."""
    judge: Judge | None = field(default=None, compare=False, repr=False)
    """The classifier itself. It belongs to the alias, as `labels` do: what is written into its directory later, or read
    for another alias, changes nothing here. None until it was read; then the default answers."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Every module or alias that may be meant, each once, the default first."""
        return tuple(dict.fromkeys((self.default, *(rule.module for rule in self.rules), *self.labels)))

    def find(self, asked: Asked, draw: Callable[[], float]) -> str:
        """Return what is meant; `draw` is for aliases that mean several by weight."""
        return self._by_rule(asked) or self._by_classifier(asked) or self.default

    def is_undecided(self, asked: Asked) -> bool:
        """Return whether the classifier must see what the prefill module makes of the prompt."""
        return self.judge is not None and not asked.states and self._by_rule(asked) is None

    def _by_rule(self, asked: Asked) -> str | None:
        # Read once, whatever number of rules look at it.
        asked = replace(asked, says=cache(lambda says=asked.says: _shorten(says())))
        return next((rule.module for rule in self.rules if rule.fits(asked)), None)

    def _by_classifier(self, asked: Asked) -> str | None:
        if self.judge is None or not asked.states:
            return None
        found = asked.classify(self.judge, asked.states)
        likeliest = max(found, key=lambda label: found[label])
        return likeliest if found[likeliest] >= self.min_probability else None

    def as_table(self) -> dict[str, Any]:
        """Return the table that `read_by_rules` reads."""
        rules = [{name: told for name in _MEMBERS if (told := getattr(rule, name)) is not None} for rule in self.rules]
        table = {"default": self.default, "rules": rules}
        if self.classifier is None:
            return table
        return table | {
            "classifier": self.classifier,
            "min_probability": self.min_probability,
            "labels": list(self.labels),
            "classifier_sha256": self.classifier_sha256,
        }


def rule_headers(aliases: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of the headers that rules look at: whoever passes a call on passes them, too."""
    by_rules = (alias for alias in aliases.values() if isinstance(alias, ByRules))
    return tuple(dict.fromkeys(rule.header for alias in by_rules for rule in alias.rules if rule.header is not None))


def compile_pattern(pattern: str) -> Any:
    """Return RE2's object of a pattern.

    Raises: ConfigError.
    """
    # RE2 comes with the engine's packages; who only reads names needs none of it.
    from prefillshare.linear_patterns import PatternError, compile_linear

    try:
        return compile_linear(pattern, _MAX_MEMORY)
    except PatternError as error:
        raise ConfigError(f"{short_repr(pattern)} is no pattern of RE2 ({error})") from None


def read_by_rules(name: str, meaning: Mapping[str, Any]) -> ByRules:
    """Return what a table with `default`, and `rules`, a `classifier` or both, says.

    Raises: ConfigError.
    """
    if unknown := meaning.keys() - set(_KEYS):
        raise ConfigError(
            f"alias {name!r} has {sorted(unknown)[0]!r} beside its default: it takes rules, classifier and "
            "min_probability"
        )
    default, rules = meaning.get("default"), meaning.get("rules", ())
    if not isinstance(default, str) or not default:
        raise ConfigError(
            f"alias {name!r} chooses by rules or a classifier and has no default: name the module for what they leave "
            "open"
        )
    if isinstance(rules, list | tuple) and len(rules) > MAX_RULES:
        raise ConfigError(f"alias {name!r} has {len(rules)} rules, and {MAX_RULES} are the most: every call tries them")
    if not isinstance(rules, list | tuple):
        raise ConfigError(f"alias {name!r} has rules = {short_repr(rules)}: write a list of tables")
    return ByRules(
        name=name,
        default=default,
        rules=tuple(_read_rule(name, rule) for rule in rules),
        **_read_classifier(name, meaning),
    )


def _read_classifier(name: str, meaning: Mapping[str, Any]) -> dict[str, Any]:
    path, least, labels, sha256 = (meaning.get(key) for key in _KEYS[2:])
    if path is None:
        if least is not None:
            raise ConfigError(f"alias {name!r} has min_probability and no classifier: name its directory, or remove it")
        return {}
    if not isinstance(path, str) or not path.strip():
        raise ConfigError(
            f"alias {name!r} has classifier = {short_repr(path)}: name the directory that "
            "`prefillshare train --router` made"
        )
    least = 0.0 if least is None else least
    if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
        raise ConfigError(f"alias {name!r} has min_probability = {short_repr(least)}: it must lie between 0 and 1")
    if labels is not None and (
        not isinstance(labels, list | tuple) or not all(isinstance(each, str) for each in labels)
    ):
        raise ConfigError(f"alias {name!r} has labels = {short_repr(labels)}: leave them out, the classifier has them")
    if not isinstance(sha256, str | None):
        raise ConfigError(f"alias {name!r} has classifier_sha256 = {short_repr(sha256)}: leave it out, it is computed")
    return {
        "classifier": path,
        "min_probability": float(least),
        "labels": tuple(labels or ()),
        "classifier_sha256": sha256,
    }


def _read_rule(name: str, table: object) -> Rule:
    where = f"a rule of alias {name!r}"
    if not isinstance(table, Mapping) or not all(isinstance(value, str) and value for value in table.values()):
        raise ConfigError(f"{where} is {short_repr(table)}: write a table of texts, with {', '.join(_MEMBERS)}")
    if unknown := table.keys() - set(_MEMBERS):
        raise ConfigError(f"{where} has {sorted(unknown)[0]!r}: it takes {', '.join(_MEMBERS)}")
    if "module" not in table:
        raise ConfigError(f"{where} names no module: add one")
    if "value" in table and "header" not in table:
        raise ConfigError(f"{where} has a value and no header: name the header whose value it is")
    if "text" not in table and "header" not in table:
        raise ConfigError(f"{where} has neither text nor header: it would always fit; name its module as the default")
    if not _TOKEN.fullmatch(header := table.get("header", "X")):
        raise ConfigError(f"{where} has the header {short_repr(header)}: give a header's name, such as X-Task")
    for pattern in (table[member] for member in ("text", "value") if member in table):
        compile_pattern(pattern)
    return Rule(**table)


def _shorten(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]}\n{text[-half:]}"
