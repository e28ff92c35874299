"""Refusals that name an object, in upstream's words.

Source: kubernetes ``staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go``.
"""

from typing import Any

from netsim.model.errors import ApiError
from netsim.model.kinds import Kind

_STALE = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(kind: Kind, name: str, why: str = _STALE) -> ApiError:
    """409; by default for a stale resourceVersion."""
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}',
        details={"name": name, "group": kind.group, "kind": kind.plural},
    )


def forbidden(kind: Kind, name: str, why: str, causes: list[dict[str, str]] | None = None) -> ApiError:
    """403."""
    details: dict[str, Any] = {"name": name, "group": kind.group, "kind": kind.plural}
    if causes:
        details["causes"] = causes
    return ApiError(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: {why}', details=details)


def already_exists(kind: Kind, name: str) -> ApiError:
    """409."""
    return ApiError(
        409,
        "AlreadyExists",
        f'{kind.resource} "{name}" already exists',
        details={"name": name, "group": kind.group, "kind": kind.plural},
    )


def internal_error(why: str) -> ApiError:
    """500."""
    return ApiError(500, "InternalError", f"Internal error occurred: {why}", details={"causes": [{"message": why}]})
