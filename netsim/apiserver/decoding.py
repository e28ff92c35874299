"""From a request's body to an object of the right kind, checked for types and, when asked, for unknown fields."""

from collections.abc import Mapping
from typing import Any

from netsim.apiserver.request import bad_request, prune
from netsim.apiserver.routing import Route
from netsim.apiserver.schema.check import TypeMismatch, check_types, unknown_fields
from netsim.model.errors import ApiError

Object = dict[str, Any]


def decode(route: Route, body: Any, query: Mapping[str, str], warnings: list[str], *, patched: bool = False) -> Object:
    """``body`` as a new object of the route's kind, ours to change. Raises ApiError 400.

    patched: the body is the result of a patch; it may share parts with stored objects, and is copied all the same.
    """
    kind = route.kind
    if not isinstance(body, dict):
        raise bad_request(f"the request has no {kind.kind} object in its body")
    api_version, kind_name = body.get("apiVersion"), body.get("kind")
    if api_version and api_version != kind.api_version:
        raise bad_request(
            f"the API version in the data ({api_version}) does not match the expected API version ({kind.api_version})"
        )
    if kind_name and kind_name != kind.kind:
        raise bad_request(
            f'{kind_name} in version "{kind.api_version}" cannot be handled as a {kind.kind}: converting '
            f"({kind_name}) to ({kind.kind}): unknown conversion"
        )
    obj: Object = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}}
    obj.update(prune(body))
    check_decoded(kind.kind, obj, kind.api_version)
    report_unknown(kind.kind, obj, query, warnings)
    return obj


def check_decoded(type_: str, value: Any, api_version: str) -> None:
    """Raise ApiError 400 if a known field has the wrong type."""
    try:
        check_types(type_, value)
    except TypeMismatch as mismatch:
        raise bad_request(
            f'{type_} in version "{api_version}" cannot be handled as a {type_}: {mismatch}'
        ) from mismatch


def report_unknown(type_: str, obj: Object, query: Mapping[str, str], warnings: list[str]) -> None:
    """What ``fieldValidation`` asks for: Strict refuses unknown fields, Warn names them, else they are just kept."""
    level = query.get("fieldValidation", "")
    if level in ("", "Ignore"):
        return
    if level not in ("Strict", "Warn"):
        raise ApiError(
            422,
            "Invalid",
            f'fieldValidation: Unsupported value: "{level}": supported values: "Ignore", "Strict", "Warn"',
        )
    unknown = [f'unknown field "{path}"' for path in unknown_fields(type_, obj)]
    if unknown and level == "Strict":
        kind = obj.get("kind", type_)
        raise bad_request(
            f'{kind} in version "{str(obj.get("apiVersion", "")).rpartition("/")[2]}" cannot be handled as a {kind}: '
            f"strict decoding error: {', '.join(unknown)}"
        )
    warnings += unknown
