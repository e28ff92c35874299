"""Whether a fact is what an expectation wants. Pure.

Wanted is a value, or a mapping of words, all of which must hold: ``not``, ``anyOf``, ``contains``, ``exactly``,
``atMost``, ``atLeast``.
Text: ``*`` stands for any text. A list of facts (places, rules): a text must match one of them, several in this order.
"""

import re
from collections.abc import Sequence
from typing import Any

from netsim.experiment.kinds import OUTCOMES, FactType

Fact = str | float | Sequence[str]
_WORDS = {
    "text": ("not", "anyOf", "contains"),
    "number": ("not", "anyOf", "atMost", "atLeast"),
    "list": ("not", "anyOf", "contains", "exactly"),
}


def find_fault(fact: FactType, wanted: Any) -> str:
    """What is wrong with what is wanted of such a fact; "" if nothing."""
    if isinstance(wanted, dict):
        if not wanted:
            return "is empty"
        for word, value in wanted.items():
            if word not in _WORDS[fact]:
                return f'"{word}" can\'t be asked of a {fact}; {", ".join(_WORDS[fact])} can'
            values = value if word == "anyOf" and isinstance(value, list) else [value]
            if word == "contains" and not isinstance(value, str):
                return "contains: must be text"
            if word == "exactly" and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
                return "exactly: must be a list of texts"
            if word in ("contains", "exactly"):
                continue
            if problem := next((found for one in values if (found := _find_plain_fault(fact, one))), ""):
                return f"{word}: {problem}"
        return ""
    return _find_plain_fault(fact, wanted)


def _find_plain_fault(fact: FactType, wanted: Any) -> str:
    if fact == "number":
        good = isinstance(wanted, int | float) and not isinstance(wanted, bool)
        return "" if good else f"must be a number, not {wanted!r}"
    if fact == "list" and isinstance(wanted, list) and wanted and all(isinstance(item, str) for item in wanted):
        return ""
    return "" if isinstance(wanted, str) else f"must be text, not {wanted!r}"


def find_outcome_fault(wanted: Any) -> str:
    """Of ``verdict``: a word that no verdict has would never hold."""
    named = [wanted[key] for key in ("not", "anyOf") if key in wanted] if isinstance(wanted, dict) else [wanted]
    values = [one for item in named for one in (item if isinstance(item, list) else [item])]
    unknown = [one for one in values if isinstance(one, str) and "*" not in one and one not in OUTCOMES]
    return f'"{unknown[0]}" is no verdict; those are: {", ".join(OUTCOMES)}' if unknown else ""


def holds(fact: Fact, wanted: Any) -> bool:
    """Whether the fact is as wanted."""
    if isinstance(wanted, dict):
        return all(_holds_word(fact, word, value) for word, value in wanted.items())
    return _matches(fact, wanted)


def _holds_word(fact: Fact, word: str, value: Any) -> bool:
    match word:
        case "not":
            return not _matches(fact, value)
        case "anyOf":
            return any(_matches(fact, one) for one in (value if isinstance(value, list) else [value]))
        case "contains":
            return any(value in one for one in ([fact] if isinstance(fact, str) else _texts(fact)))
        case "exactly":
            found = _texts(fact)
            return len(found) == len(value) and all(map(_matches, found, value))
        case "atMost":
            return isinstance(fact, int | float) and fact <= value
        case "atLeast":
            return isinstance(fact, int | float) and fact >= value
    raise ValueError(f"no such word: {word}")


def _matches(fact: Fact, wanted: Any) -> bool:
    if isinstance(fact, str):
        return isinstance(wanted, str) and re.fullmatch(_pattern(wanted), fact, re.S) is not None
    if isinstance(fact, int | float):
        return bool(fact == wanted)
    rest = iter(fact)  # several: each after the one before
    return all(
        any(_matches(one, pattern) for one in rest) for pattern in ([wanted] if isinstance(wanted, str) else wanted)
    )


def _texts(fact: Fact) -> list[str]:
    return [fact] if isinstance(fact, str) else [str(fact)] if isinstance(fact, int | float) else list(fact)


def _pattern(text: str) -> str:
    return ".*".join(re.escape(part) for part in text.split("*"))


def spell_wanted(key: str, wanted: Any) -> str:
    """An expectation in one line: ``verdict is delivered``, ``p99Ms at most 5``, ``through a, then b``."""
    if not isinstance(wanted, dict):
        return f"{key} {'is' if not isinstance(wanted, list) else 'has'} {_spell(wanted)}"
    words = {
        "not": "not", "anyOf": "one of", "contains": "contains", "exactly": "exactly", "atMost": "at most",
        "atLeast": "at least",
    }  # fmt: skip
    parts = [
        f"{words[word]} {', '.join(map(str, value)) if word == 'anyOf' and isinstance(value, list) else _spell(value)}"
        for word, value in wanted.items()
    ]
    return f"{key} {' and '.join(parts)}"


def _spell(value: Any) -> str:
    return (", then ".join(map(str, value)) or "nothing") if isinstance(value, list) else str(value)
