"""Label and field selectors: parsed once, matched often, rendered back.

Source: kubernetes ``staging/src/k8s.io/apimachinery/pkg/labels/selector.go`` and
``.../pkg/fields/selector.go``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from netsim.model.errors import ApiError

IN = "In"
NOT_IN = "NotIn"
EXISTS = "Exists"
NOT_EXISTS = "DoesNotExist"
GREATER = "Gt"  # string form only, as upstream: ``a>5``
LESS = "Lt"

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}")
_VALUE = re.compile(rf"({_NAME})?")
_EMPTY: Mapping[str, str] = {}


def _bad(text: str) -> ApiError:
    return ApiError(400, "BadRequest", f"unable to parse requirement: {text}")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One clause of a label selector. ``values`` is sorted; empty for Exists and DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator == IN:
            return value is not None and value in self.values
        if self.operator == NOT_IN:
            return value is None or value not in self.values
        if self.operator == EXISTS:
            return value is not None
        if self.operator == NOT_EXISTS:
            return value is None
        try:  # Gt and Lt: whole numbers on both sides, anything else does not match
            left, right = int(value or ""), int(self.values[0])
        except ValueError:
            return False
        return left > right if self.operator == GREATER else left < right

    def __str__(self) -> str:
        if self.operator == EXISTS:
            return self.key
        if self.operator == NOT_EXISTS:
            return f"!{self.key}"
        if self.operator in (GREATER, LESS):
            return f"{self.key}{'>' if self.operator == GREATER else '<'}{self.values[0]}"
        if len(self.values) == 1:
            return f"{self.key}{'=' if self.operator == IN else '!='}{self.values[0]}"
        return f"{self.key} {'in' if self.operator == IN else 'notin'} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A conjunction of requirements. Without any it matches everything; NOTHING matches nothing."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False
    # The common clauses (key = value), taken out so that matching them costs one dict look-up each.
    _pairs: tuple[tuple[str, str], ...] = field(init=False, repr=False, compare=False)
    _others: tuple[Requirement, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        plain = [r for r in self.requirements if r.operator == IN and len(r.values) == 1]
        object.__setattr__(self, "_pairs", tuple((r.key, r.values[0]) for r in plain))
        object.__setattr__(self, "_others", tuple(r for r in self.requirements if r not in plain))

    @property
    def everything(self) -> bool:
        return not self.nothing and not self.requirements

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        """Whether an object with these labels is selected."""
        if self.nothing:
            return False
        labels = labels or _EMPTY
        for key, value in self._pairs:
            if labels.get(key) != value:
                return False
        return all(requirement.matches(labels) for requirement in self._others)

    def __str__(self) -> str:
        """The string form, which parse_label_selector reads back."""
        return ",".join(str(requirement) for requirement in self.requirements)


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)


def _make_requirement(key: str, operator: str, values: Iterable[str]) -> Requirement:
    name = key.rpartition("/")[2]
    if not _KEY.fullmatch(key) or len(name) > 63:
        raise _bad(f'invalid label key "{key}"')
    distinct = tuple(sorted(set(values)))
    for value in distinct:
        if not _VALUE.fullmatch(value):
            raise _bad(f'invalid label value "{value}" for key "{key}"')
    if operator in (IN, NOT_IN) and not distinct:
        raise _bad(f'for key "{key}": values are needed with {operator}')
    if operator in (GREATER, LESS) and not (len(distinct) == 1 and re.fullmatch(r"-?\d+", distinct[0])):
        raise _bad(f'for key "{key}": {operator} needs one whole number')
    if operator in (EXISTS, NOT_EXISTS) and distinct:
        raise _bad(f'for key "{key}": {operator} takes no values')
    return Requirement(key, operator, distinct)


_TOKEN = re.compile(r"\s*(==|!=|=|!|,|\(|\)|<|>|[^\s=!,()<>]+)")


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    stripped = text.rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        if match is None:  # cannot happen while _TOKEN covers every character; kept so that it never loops
            raise _bad(f'"{text}"')
        tokens.append(match[1])
        at = match.end()
    return tokens


_PUNCTUATION = frozenset(("==", "!=", "=", "!", ",", "(", ")", "<", ">"))


class _Parser:
    """Recursive descent over the tokens of one selector."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def fail(self, wanted: str) -> ApiError:
        found = self.peek()
        return _bad(f'"{self.text}": found {found!r}, expected: {wanted}')

    def word(self, wanted: str) -> str:
        if not self.peek() or self.peek() in _PUNCTUATION:
            raise self.fail(wanted)
        return self.take()

    def requirements(self) -> list[Requirement]:
        found = [self.requirement()]
        while self.peek():
            if self.take() != ",":
                self.at -= 1
                raise self.fail("',' or the end")
            found.append(self.requirement())
        return found

    def requirement(self) -> Requirement:
        if self.peek() == "!":
            self.take()
            return _make_requirement(self.word("a label key"), NOT_EXISTS, ())
        key = self.word("a label key")
        operator = self.peek()
        if operator in ("", ","):
            return _make_requirement(key, EXISTS, ())
        self.take()
        if operator in ("=", "=="):
            return _make_requirement(key, IN, (self.value(),))
        if operator == "!=":
            return _make_requirement(key, NOT_IN, (self.value(),))
        if operator in ("<", ">"):
            return _make_requirement(key, GREATER if operator == ">" else LESS, (self.word("a number"),))
        if operator in ("in", "notin"):
            return _make_requirement(key, IN if operator == "in" else NOT_IN, self.values())
        self.at -= 1
        raise self.fail("in, notin, =, ==, !=, <, >, ',' or the end")

    def value(self) -> str:
        return "" if self.peek() in ("", ",") else self.word("a label value")

    def values(self) -> list[str]:
        if self.take() != "(":
            self.at -= 1
            raise self.fail("'('")
        found = [self.listed_value()]
        while self.peek() == ",":
            self.take()
            found.append(self.listed_value())
        if self.take() != ")":
            self.at -= 1
            raise self.fail("',' or ')'")
        return found

    def listed_value(self) -> str:
        return "" if self.peek() in (",", ")") else self.word("a label value")


@lru_cache(maxsize=1024)
def parse_label_selector(text: str) -> LabelSelector:
    """``a=b,c!=d,e in (x,y),f notin (z),g,!h,i>5``; empty selects everything. Raises ApiError 400."""
    if not text.strip():
        return EVERYTHING
    return LabelSelector(tuple(sorted(_Parser(text).requirements(), key=lambda r: r.key)))


def label_selector_from_map(labels: Mapping[str, str] | None) -> LabelSelector:
    """A Service's ``spec.selector`` or a ``nodeSelector``. Empty or None selects nothing, as for Services."""
    if not labels:
        return NOTHING
    return LabelSelector(tuple(Requirement(key, IN, (str(value),)) for key, value in sorted(labels.items())))


def label_selector_from_object(selector: Mapping[str, Any] | None) -> LabelSelector:
    """``{matchLabels, matchExpressions}``. None selects nothing, an empty object everything (upstream's
    rule).

    Raises ApiError 400.
    """
    if selector is None:
        return NOTHING
    requirements = [
        Requirement(key, IN, (str(value),)) for key, value in sorted((selector.get("matchLabels") or {}).items())
    ]
    for expression in selector.get("matchExpressions") or ():
        operator = expression.get("operator")
        if operator not in (IN, NOT_IN, EXISTS, NOT_EXISTS):
            raise _bad(f'"{operator}" is not a valid label selector operator')
        requirements.append(_make_requirement(expression.get("key", ""), operator, expression.get("values") or ()))
    return LabelSelector(tuple(requirements))


@dataclass(frozen=True, slots=True)
class FieldTerm:
    """One clause of a field selector: the field at ``path`` equals ``value``, or does not."""

    path: str
    value: str
    equal: bool = True

    def __str__(self) -> str:
        escaped = re.sub(r"([\\,=])", r"\\\1", self.value)
        return f"{self.path}{'=' if self.equal else '!='}{escaped}"


def read_field(obj: Mapping[str, Any], path: str) -> str:
    """The field at a dotted path as a field selector compares it: text, empty where there is none."""
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """A conjunction of field terms. Which paths a kind supports is the API server's to say."""

    terms: tuple[FieldTerm, ...] = ()

    @property
    def everything(self) -> bool:
        return not self.terms

    def matches(self, obj: Mapping[str, Any]) -> bool:
        return all((read_field(obj, term.path) == term.value) == term.equal for term in self.terms)

    def equal_to(self, path: str) -> str | None:
        """The value ``path`` must have, if a term fixes it: lets a list go by name or by an index."""
        return next((term.value for term in self.terms if term.path == path and term.equal), None)

    def __str__(self) -> str:
        return ",".join(str(term) for term in self.terms)


_FIELD_TERM = re.compile(r"([^=!\\,]+)(!=|==|=)((?:[^\\,=]|\\[\\,=])*)")


@lru_cache(maxsize=256)
def parse_field_selector(text: str) -> FieldSelector:
    """``spec.nodeName=node-1,status.phase!=Running``; with backslash escapes. Raises ApiError 400."""
    terms = []
    for part in re.findall(r"(?:[^\\,]|\\.|\\$)+", text):  # an empty clause passes, as upstream
        if not part.strip():
            continue
        match = _FIELD_TERM.fullmatch(part.strip())
        if match is None:
            raise ApiError(400, "BadRequest", f"invalid selector: '{text}'; can't understand '{part}'")
        value = re.sub(r"\\([\\,=])", r"\1", match[3])
        terms.append(FieldTerm(match[1].strip(), value, match[2] != "!="))
    return FieldSelector(tuple(terms))
