"""URL paths: which object, collection or subresource a path means.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-uris
"""

from dataclasses import dataclass

from netsim.model.errors import ApiError
from netsim.model.kinds import KINDS, NAMESPACE, Kind, known_kinds

_BY_PATH = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})


@dataclass(frozen=True, slots=True)
class Route:
    """A path that names objects. ``namespace`` is None for all namespaces and for cluster-wide kinds."""

    kind: Kind
    namespace: str | None = None
    name: str | None = None
    subresource: str | None = None
    rest: str = ""  # what follows the subresource: the path of a proxied request


def unknown_path(path: str) -> ApiError:
    """404 that says what there is."""
    known = f"known kinds: {known_kinds()}"
    if "/pods/" in path and path.endswith(("/exec", "/attach", "/portforward")):  # kubectl exec and cp, attach, ...
        known = "netsim has no streams over HTTP: use netsim exec pod/[NAMESPACE/]NAME -- COMMAND"
    return ApiError(
        404,
        "NotFound",
        f"the server could not find the requested resource: {path} ({known})",
        details={"causes": [{"reason": "UnexpectedServerResponse", "message": f"no such path: {path}"}]},
    )


def parse_path(path: str) -> Route:
    """The Route of ``/api/v1/...`` or ``/apis/GROUP/VERSION/...``. Raises ApiError 404."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, version, at = "", parts[1], 2
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, at = parts[1], parts[2], 3
    else:
        raise unknown_path(path)
    namespace = None
    left = len(parts) - at
    if parts[at] == "namespaces" and left > 2 and not (parts[at + 2] in _NAMESPACE_SUBRESOURCES and not group):
        namespace = parts[at + 1]
        at += 2
        left -= 2
    kind = _BY_PATH.get((group, version, parts[at]))
    if kind is None or (namespace is not None and not kind.namespaced):
        raise unknown_path(path)
    if kind.namespaced and namespace is None and left > 1:
        raise unknown_path(path)  # one object of a namespaced kind, without its namespace
    name = parts[at + 1] if left > 1 else None
    subresource = parts[at + 2] if left > 2 else None
    allowed = (*kind.subresources, "finalize") if kind is NAMESPACE else kind.subresources
    if subresource is not None and subresource not in allowed:
        raise unknown_path(path)
    return Route(kind, namespace, name, subresource, "/".join(parts[at + 3 :]))
