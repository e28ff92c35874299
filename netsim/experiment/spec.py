"""An experiment as data: what the file says, checked. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from netsim.model.errors import InputError
from netsim.model.manifests import SourceObject

Values = Mapping[str, Any]  # one value for each key of the matrix
REFERENCE = re.compile(r"\$(\$)?\{([^}]*)\}")  # ${key}; $${key} stands for the text ${key}


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a fact of a step must be. ``wanted`` may still have references; ``where`` is FILE:LINE."""

    key: str
    wanted: Any
    when: Values
    where: str


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do. ``arguments`` may still have references."""

    name: str
    kind: str
    arguments: Mapping[str, Any]
    when: Values
    expect: tuple[Expectation, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The text of a manifest, which may have references. ``file``: that it was read from, or FILE:LINE in the
    experiment where it is written there (``inline``).
    """

    text: str
    file: str
    inline: bool = False


@dataclass(frozen=True, slots=True)
class Combination:
    """One value for each key of the matrix, and what they make of the experiment."""

    values: Values
    topology: Mapping[str, Any]
    manifests: tuple[SourceObject, ...]
    steps: tuple[Step, ...]

    @property
    def label(self) -> str:
        """``proxyMode=iptables externalTrafficPolicy=Local``; ``-`` where there is no matrix."""
        return label_of(self.values)


@dataclass(frozen=True, slots=True)
class Experiment:
    """A whole file."""

    name: str
    title: str
    about: str
    file: str
    matrix: Mapping[str, Sequence[Any]]
    combinations: tuple[Combination, ...]
    measuring: bool = field(default=False)  # it has figures that other work beside it would disturb


def label_of(values: Values) -> str:
    """A combination in words."""
    return " ".join(f"{key}={spell(value)}" for key, value in values.items()) or "-"


def spell(value: Any) -> str:
    """A value of the matrix as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def list_values(matrix: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination, the last key changing fastest."""
    return [dict(zip(matrix, values, strict=True)) for values in product(*matrix.values())]


def applies(when: Values, values: Values) -> bool:
    """Whether a ``when`` holds: each key has that value, or one of those values."""
    return all(
        values[key] in wanted if isinstance(wanted, list) else values[key] == wanted for key, wanted in when.items()
    )


def fill(value: Any, values: Values, where: str = "") -> Any:
    """``value`` with its references put in. A text that is nothing but one reference becomes the value, number or not.

    Raises InputError for a key that the matrix does not have.
    """
    if isinstance(value, str):
        whole = REFERENCE.fullmatch(value)
        if whole and not whole[1]:
            return _look_up(whole[2], values, where)
        return fill_text(value, values, where)
    if isinstance(value, Mapping):
        return {key: fill(item, values, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill(item, values, where) for item in value]
    return value


def fill_text(text: str, values: Values, where: str = "") -> str:
    """As `fill`, always text: a manifest before YAML reads it."""

    def put_in(match: re.Match[str]) -> str:
        return f"${{{match[2]}}}" if match[1] else spell(_look_up(match[2], values, where))

    return REFERENCE.sub(put_in, text)


def list_references(value: Any) -> set[str]:
    """The keys that a value refers to."""
    if isinstance(value, str):
        return {match[2] for match in REFERENCE.finditer(value) if not match[1]}
    if isinstance(value, Mapping):
        return {key for item in value.values() for key in list_references(item)}
    if isinstance(value, list | tuple):
        return {key for item in value for key in list_references(item)}
    return set()


def _look_up(key: str, values: Values, where: str) -> Any:
    if key not in values:
        known = ", ".join(values) or "none"
        hint = f"the matrix has: {known}; write $${{{key}}} for the text itself"
        raise InputError(f"${{{key}}}: the matrix has no such key", where=where, hint=hint)
    return values[key]
