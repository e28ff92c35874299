"""The type tables read: every known type with its fields, and what the notation of a field means.

Notation of a field: ``string``, ``bool``, ``int32``, ``int64``, ``Time``, ``Quantity`` (text or a number),
``IntOrString``, ``object`` (anything), a type name, ``[]T``, ``map[string]T``; then, as upstream's struct tags
``patchMergeKey`` and ``patchStrategy`` say: ``@key`` (a strategic merge patch merges this list by that key; a bare
``@`` merges a list of plain values as a set) and ``!retainKeys``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from netsim.apiserver.schema.meta_types import META_TYPES
from netsim.apiserver.schema.pod_types import POD_TYPES
from netsim.apiserver.schema.workload_types import WORKLOAD_TYPES
from netsim.model.kinds import KINDS

SCALARS = frozenset({"string", "bool", "int32", "int64", "Time", "Quantity", "IntOrString", "object"})


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its shape, the type of its value or elements, and how a strategic merge patch treats it."""

    shape: str  # "", "[]" or "map"
    type: str
    merge_key: str | None = None  # of a list: None replaces it, "" merges plain values, else the key of its elements
    retain_keys: bool = False


def parse_field(notation: str) -> Field:
    """The Field a notation stands for."""
    type_, *flags = notation.split()
    merge_key = next((flag[1:] for flag in flags if flag.startswith("@")), None)
    retain_keys = "!retainKeys" in flags
    for shape, prefix in (("[]", "[]"), ("map", "map[string]")):
        if type_.startswith(prefix):
            return Field(shape, type_.removeprefix(prefix), merge_key, retain_keys)
    return Field("", type_, merge_key, retain_keys)


def _read_tables() -> dict[str, dict[str, Field]]:
    roots = {kind.kind for kind in KINDS} | {"Binding", "Scale"}
    tables: dict[str, dict[str, Field]] = {}
    for name, fields in {**META_TYPES, **POD_TYPES, **WORKLOAD_TYPES}.items():
        parsed = {field: parse_field(notation) for field, notation in fields.items()}
        if name in roots:
            head = {"apiVersion": "string", "kind": "string", "metadata": "ObjectMeta"}
            parsed = {field: parse_field(notation) for field, notation in head.items()} | parsed
        tables[name] = parsed
    return tables


TYPES: Mapping[str, Mapping[str, Field]] = _read_tables()
