"""Manifests: the YAML (or JSON) text of several documents as API objects that know their file and line.

Scalars are read as ``kubectl`` reads them (sigs.k8s.io/yaml, go-yaml v2), which differs from PyYAML's YAML
1.1 in what matters here: ``80:80`` is a string and no base-60 number, ``2024-01-01`` is a string and no
date, ``1e3`` is a number, and mapping keys are strings. Unlike kubectl, a key that is there twice is an
error: the first value would be lost in silence.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from netsim.model.errors import ApiError, InputError
from netsim.model.kinds import Kind, kind_of, known_kinds

# An anchor that refers to anchors that refer to anchors grows without bound when written out ("billion laughs");
# the largest real manifests (bundles of CRDs) have some 100,000 values.
MAX_VALUES = 2_000_000

_UNKNOWN_FIELD = re.compile(r'unknown field "([^"]+)"')
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times faster; not every build has it
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"


class _ManifestLoader(_Loader):  # type: ignore[misc]  # the base is chosen at run time
    """A safe loader with go-yaml's idea of which plain scalars are numbers."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012  # PyYAML's name
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (f"{_TAG}bool", f"{_TAG}null", _MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_ManifestLoader.add_implicit_resolver(
    f"{_TAG}int",
    re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_ManifestLoader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One API object and where it was written."""

    object: dict[str, Any]
    kind: Kind
    file: str
    line: int  # of its first key, from 1
    _node: yaml.Node = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])

    @property
    def where(self) -> str:
        """``FILE:LINE``."""
        return f"{self.file}:{self.line}"

    def line_of(self, path: str) -> int:
        """The line of a field path (``spec.ports[0].port``), or of the deepest part of it there is."""
        return _line(_descend(self._node, _split_path(path)))

    def position_of(self, path: str) -> str:
        """``FILE:LINE`` of a field path."""
        return f"{self.file}:{self.line_of(path)}"


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """Any YAML document, and where each of its fields was written."""

    value: Any
    file: str
    _node: yaml.Node = field(repr=False, compare=False)

    def position_of(self, path: str = "") -> str:
        """``FILE:LINE`` of a field path (``steps[0].name``), or of the deepest part of it there is."""
        return f"{self.file}:{_line(_descend(self._node, _split_path(path)))}"


def parse_documents(text: str, file: str = "<text>") -> list[SourceDocument]:
    """The documents of ``text``, read as manifests are, whatever they are. Raises InputError with ``FILE:LINE``."""
    reader = _Reader(file)
    return [SourceDocument(reader.value(node), file, node) for node in reader.compose(text)]


def parse_manifests(text: str, file: str = "<text>") -> list[SourceObject]:
    """The objects of ``text``, in order; ``List`` objects are opened, empty documents passed over.

    Raises InputError with ``FILE:LINE``: broken YAML (in the parser's words), a document that is no object,
    no ``apiVersion``, ``kind`` or ``metadata.name``, a kind netsim does not know, a key that is there twice.
    """
    reader = _Reader(file)
    found: list[SourceObject] = []
    for node in reader.compose(text):
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null":
            continue  # an empty document, as "---" at the end of a file makes
        found.extend(_objects(reader.value(node), node, file))
    return found


def locate(error: ApiError, source: SourceObject) -> ApiError:
    """``error``, an answer of the API about ``source``, with the place in the file as its ``where``."""
    causes: Iterable[Mapping[str, Any]] = error.details.get("causes") or ()
    path = next((str(cause["field"]) for cause in causes if cause.get("field")), "")
    if not path and (unknown := _UNKNOWN_FIELD.search(error.message)):  # strict decoding names it in words only
        path = unknown[1]
    error.where = source.position_of(path) if path else source.where
    return error


def _objects(value: Any, node: yaml.Node, file: str) -> list[SourceObject]:
    """The checked object of one document, or those of a List."""
    line = _line(node)
    where = f"{file}:{line}"
    if not isinstance(value, dict):
        raise InputError(
            f"the document is {_type_name(value)}, not a Kubernetes object",
            where=where,
            hint="an object starts with apiVersion, kind and metadata",
        )
    for key in ("apiVersion", "kind"):
        _require_text(value, key, key, node, file, value)
    api_version, kind_name = value["apiVersion"], value["kind"]
    if kind_name == "List" and api_version == "v1":
        return _list_items(value, node, file)
    kind = kind_of(api_version, kind_name)
    if kind is None:
        raise InputError(
            f'unknown kind "{kind_name}" in apiVersion "{api_version}"',
            where=f"{file}:{_line(_descend(node, ['kind']))}",
            hint=f"known kinds: {known_kinds()}",
        )
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        problem = "missing" if metadata is None else f"must be an object, not {_type_name(metadata)}"
        at = _line(_descend(node, ["metadata"]))
        raise InputError(f"metadata: {problem}", where=f"{file}:{at}", hint="every object needs metadata.name")
    _require_text(metadata, "name", "metadata.name", node, file, value)
    if metadata.get("namespace") is not None and not isinstance(metadata["namespace"], str):
        _require_text(metadata, "namespace", "metadata.namespace", node, file, value)
    return [SourceObject(value, kind, file, line, node)]


def _list_items(value: dict[str, Any], node: yaml.Node, file: str) -> list[SourceObject]:
    items = value.get("items") or []
    if not isinstance(items, list):
        at = _line(_descend(node, ["items"]))
        raise InputError(f"items: must be a list, not {_type_name(items)}", where=f"{file}:{at}")
    return [
        found for index, item in enumerate(items) for found in _objects(item, _descend(node, ["items", index]), file)
    ]


def _require_text(
    holder: Mapping[str, Any], key: str, path: str, node: yaml.Node, file: str, whole: Mapping[str, Any]
) -> None:
    """InputError unless ``holder[key]`` is a string with something in it."""
    found = holder.get(key)
    if isinstance(found, str) and found:
        return
    where = f"{file}:{_line(_descend(node, _split_path(path)))}"
    if found is None or found == "":
        kind = whole.get("kind")
        of = f" (kind {kind})" if key == "name" and isinstance(kind, str) else ""
        raise InputError(f"{path}: missing{of}", where=where, hint=f"add {path} to the object")
    raise InputError(f"{path}: must be a string, not {_type_name(found)}", where=where, hint="put it in quotes")


class _Reader:
    """YAML nodes to JSON values, with a line for every fault."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._values = 0
        self._open: set[int] = set()  # nodes being read, to notice an anchor that contains itself
        self._constructor = yaml.constructor.SafeConstructor()

    def compose(self, text: str) -> list[yaml.Node]:
        try:
            return list(yaml.compose_all(_join_surrogates(text), Loader=_ManifestLoader))
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise InputError(
                f"character {_hex(error.character)}: {error.reason}", where=f"{self.file}:{line}"
            ) from error
        except yaml.MarkedYAMLError as error:
            raise self._broken(error) from error

    def _broken(self, error: yaml.MarkedYAMLError) -> InputError:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        words = str(error.problem or "broken YAML")
        if error.context and error.context_mark:
            words += f" ({error.context} that starts on line {error.context_mark.line + 1})"
        elif error.context:
            words += f" ({error.context})"
        hint = "check the indentation and the quotes on this line and the one before"
        if any(said in words for said in ("'\\t'", "tab character", "found character that cannot start any token")):
            hint = "indent with spaces: YAML forbids tabs there"
        return InputError(f"broken YAML: {words}", where=f"{self.file}:{line}", hint=hint)

    def fail(self, node: yaml.Node, message: str, hint: str = "") -> InputError:
        return InputError(message, where=f"{self.file}:{_line(node)}", hint=hint)

    def value(self, node: yaml.Node) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self.fail(node, f"more than {MAX_VALUES} values", "its anchors refer to each other too often")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self.fail(node, "an anchor contains itself")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item) for item in node.value]
            return self._mapping(node)
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind == "str":
            return node.value
        if kind not in ("int", "float", "bool", "null"):
            raise self.fail(node, f"the tag {node.tag} has no place in a manifest")
        try:
            if kind == "int" and node.value.lstrip("+-").startswith("0o"):
                return int(node.value.replace("_", ""), 8)
            value = self._constructor.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError) as error:
            raise self.fail(node, f"{node.value!r} is no {kind}") from error
        if isinstance(value, float):
            if not math.isfinite(value):
                raise self.fail(node, f"{node.value} is no number that JSON knows", "put it in quotes")
            return int(value) if value.is_integer() else value  # Go writes 1.0 as 1, and so sees an integer there
        return value

    def _mapping(self, node: yaml.Node) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"the tag {node.tag} has no place in a manifest")
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged = {**self._merge(value_node), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.fail(key_node, "a key must be a string")
            key = key_node.value
            if key in lines:
                raise self.fail(key_node, f'the key "{key}" is there twice, first on line {lines[key]}')
            lines[key] = _line(key_node)
            result[key] = self.value(value_node)
        return {**merged, **result} if merged else result

    def _merge(self, node: yaml.Node) -> dict[str, Any]:
        """What ``<<: *anchor`` or ``<<: [*a, *b]`` brings in; earlier ones win (YAML's merge key type)."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in sources:
            value = self.value(source)
            if not isinstance(value, dict):
                raise self.fail(source, f"<< needs an object, not {_type_name(value)}")
            merged = {**value, **merged}
        return merged


def _join_surrogates(text: str) -> str:
    """``text`` with JSON's pairs of escapes for one character as that character: libyaml refuses them."""
    if "\\ud" not in text and "\\uD" not in text:
        return text

    def join(match: re.Match[str]) -> str:
        return f"{match[1]}{json.loads(chr(34) + match[2] + chr(34))}"

    return re.sub(r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})", join, text)


def _split_path(path: str) -> list[str | int]:
    """``spec.ports[0].port`` as ``["spec", "ports", 0, "port"]``; ``labels[a/b]`` (upstream's keys) too."""
    parts: list[str | int] = []
    for name, key in re.findall(r"([^.\[\]]+)|\[([^\]]*)\]", path):
        parts.append(name if name else int(key) if key.isdigit() else key.strip("\"'"))
    return parts


def _descend(node: yaml.Node, path: list[str | int]) -> yaml.Node:
    """The node at ``path``, or the deepest one on the way there. A mapping's value is shown by its key, which
    may be a line above it, because that is the line a person looks for."""
    here = node
    shown = node
    for part in path:
        if isinstance(here, yaml.SequenceNode) and isinstance(part, int) and part < len(here.value):
            here = shown = here.value[part]
            continue
        if not isinstance(here, yaml.MappingNode):
            return shown
        for key_node, value_node in here.value:
            if key_node.value == str(part):
                here, shown = value_node, key_node
                break
        else:
            return shown
    return here if isinstance(path[-1] if path else None, int) else shown


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _hex(character: Any) -> str:
    return f"0x{character:02x}" if isinstance(character, int) else repr(character)


def _type_name(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"a boolean ({str(value).lower()})"
    if isinstance(value, int | float):
        return f"a number ({value})"
    return {"str": "text", "list": "a list", "dict": "an object"}.get(type(value).__name__, type(value).__name__)
