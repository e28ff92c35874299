"""A path as JSON, and back: the form that scripts read and that travels over the control socket. Pure.

Keys are camelCase as in the Kubernetes API; what has its default is left out. `path.schema.json`, beside this file, is
its schema; docs/trace.md explains it.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from netsim.observe.path import Hop, Packet, Path, Question, RuleHit, Verdict
from netsim.observe.spread import Spread

T = TypeVar("T")

# Fields that hold one of these, or a tuple of them; all others hold text, numbers or plain containers.
_NESTED: dict[tuple[type, str], type] = {
    (Packet, "outer"): Packet,
    (Hop, "packet"): Packet,
    (Hop, "before"): Packet,
    (Hop, "rules"): RuleHit,
    (Path, "question"): Question,
    (Path, "verdict"): Verdict,
    (Path, "hops"): Hop,
}
_ALWAYS = frozenset({"hops", "notes", "names"})  # there also when empty, so that readers need not ask


def render_path(path: Path) -> dict[str, Any]:
    """A path as JSON has it."""
    return _render_fields(path)


def parse_path(document: Mapping[str, Any]) -> Path:
    """The path that `render_path` made this of. Raises KeyError, TypeError for anything else."""
    return _parse(Path, document)


def render_spread(spread: Spread) -> dict[str, Any]:
    """Several probes: how they went together, and each way that was taken with how often it was."""
    return {
        "probes": spread.count,
        "outcomes": spread.outcomes,
        "answeredBy": spread.answered_by,
        "ways": [{"count": group.count, "path": render_path(group.path)} for group in spread.groups],
    }


def _render_fields(value: Any) -> dict[str, Any]:
    rendered = {}
    for field, key in _keys(type(value)):
        content = getattr(value, field.name)
        if field.name in _ALWAYS or content != _default(field):
            rendered[key] = _render(content)
    return rendered


def _render(value: Any) -> Any:
    if isinstance(value, Packet | RuleHit | Hop | Verdict | Question | Path):
        return _render_fields(value)
    if isinstance(value, tuple):
        return [_render(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value


def _parse(kind: type[T], document: Mapping[str, Any]) -> T:
    arguments: dict[str, Any] = {}
    for field, key in _keys(kind):
        if key not in document:
            continue
        content, nested = document[key], _NESTED.get((kind, field.name))
        if isinstance(content, list):
            content = tuple(content if nested is None else (_parse(nested, item) for item in content))
        elif nested is not None and content is not None:
            content = _parse(nested, content)
        arguments[field.name] = content
    return kind(**arguments)


def _keys(kind: Any) -> tuple[tuple[Field[Any], str], ...]:
    return tuple((field, _camel(field.name)) for field in fields(kind))


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default  # MISSING where there is none, which equals no value


def _camel(name: str) -> str:
    """``source_port`` is ``sourcePort``; a unit stays apart as one word: ``timeNs``, ``elapsedMs``."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
