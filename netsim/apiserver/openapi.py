"""/openapi/v3, from the type tables.

kubectl 1.29 and later read it before they apply, create or replace: for each kind they look for a PATCH operation
with a ``fieldValidation`` parameter and ``x-kubernetes-group-version-kind``, and leave the validation to the server.
``explain`` reads the properties.
"""

from typing import Any

from netsim.apiserver.schema.tables import TYPES, Field
from netsim.model.kinds import KINDS, Kind

Object = dict[str, Any]

_SCALARS: dict[str, Object] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "Time": {"type": "string", "format": "date-time"},
    "Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "IntOrString": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
    "object": {"type": "object"},
}


def _prefix(kind: Kind) -> str:
    return f"apis/{kind.group}/{kind.version}" if kind.group else f"api/{kind.version}"


def openapi_index() -> Object:
    """The list of documents, one for each group and version."""
    prefixes = dict.fromkeys(map(_prefix, KINDS))
    return {"paths": {prefix: {"serverRelativeURL": f"/openapi/v3/{prefix}"} for prefix in prefixes}}


def _schema_name(kind: Kind, type_: str) -> str:
    """Upstream's naming: ``io.k8s.api.apps.v1.Deployment``."""
    return f"io.k8s.api.{kind.group.partition('.')[0] or 'core'}.{kind.version}.{type_}"


def _reference(kind: Kind, type_: str) -> Object:
    if type_ in _SCALARS:
        return _SCALARS[type_]
    return {"allOf": [{"$ref": f"#/components/schemas/{_schema_name(kind, type_)}"}], "default": {}}


def _property(kind: Kind, field: Field) -> Object:
    inner = _reference(kind, field.type)
    if field.shape == "map":
        return {"type": "object", "additionalProperties": inner}
    if field.shape != "[]":
        return inner
    found: Object = {"type": "array", "items": inner}
    if field.merge_key is not None:
        found["x-kubernetes-patch-strategy"] = "merge,retainKeys" if field.retain_keys else "merge"
        if field.merge_key:
            found["x-kubernetes-patch-merge-key"] = field.merge_key
    return found


def _schemas(kind: Kind, into: Object) -> None:
    """Add the kind's schema and every type it reaches."""
    todo = [kind.kind]
    while todo:
        type_ = todo.pop()
        name = _schema_name(kind, type_)
        if name in into or type_ not in TYPES:
            continue
        fields = TYPES[type_]
        into[name] = {
            "type": "object",
            "description": f"{type_}, as far as netsim knows its fields.",
            "properties": {key: _property(kind, field) for key, field in fields.items()},
        }
        todo += [field.type for field in fields.values()]
    into[_schema_name(kind, kind.kind)]["x-kubernetes-group-version-kind"] = [_gvk(kind)]


def _gvk(kind: Kind) -> Object:
    return {"group": kind.group, "kind": kind.kind, "version": kind.version}


def _operation(kind: Kind, action: str, *, validated: bool) -> Object:
    parameters = [{"name": "dryRun", "in": "query", "schema": {"type": "string", "uniqueItems": True}}]
    if validated:
        parameters.append({"name": "fieldValidation", "in": "query", "schema": {"type": "string", "uniqueItems": True}})
    answer = {"$ref": f"#/components/schemas/{_schema_name(kind, kind.kind)}"}
    return {
        "operationId": f"{action}{kind.group.partition('.')[0].title() or 'Core'}{kind.version.upper()}{kind.kind}",
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": answer}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(kind),
    }


def openapi_document(prefix: str) -> Object | None:
    """The OpenAPI 3.0 document of ``api/v1`` or ``apis/GROUP/VERSION``; None if there is none."""
    kinds = [kind for kind in KINDS if _prefix(kind) == prefix]
    if not kinds:
        return None
    paths: Object = {}
    schemas: Object = {}
    for kind in kinds:
        _schemas(kind, schemas)
        collection = kind.path("{namespace}" if kind.namespaced else None)
        paths[collection] = {
            "get": _operation(kind, "list", validated=False),
            "post": _operation(kind, "post", validated=True),
        }
        paths[f"{collection}/{{name}}"] = {
            "get": _operation(kind, "get", validated=False),
            "put": _operation(kind, "put", validated=True),
            "patch": _operation(kind, "patch", validated=True),
            "delete": _operation(kind, "delete", validated=False),
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes, as netsim emulates it", "version": "v1.31"},
        "paths": paths,
        "components": {"schemas": schemas},
    }
