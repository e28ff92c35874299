"""The API by Kind: get, list, create, update, patch, delete, watch. Failures are ApiError."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from netsim.client.transport import (
    JSON_PATCH,
    MERGE_PATCH,
    NO_QUERY,
    STRATEGIC_PATCH,
    Response,
    Transport,
    WatchStream,
)
from netsim.model.errors import ApiError
from netsim.model.kinds import Kind
from netsim.model.objects import Object, name_of, namespace_of

PatchType = Literal["merge", "strategic", "json"]
Propagation = Literal["Background", "Foreground", "Orphan"]
_CONTENT_TYPES: Mapping[str, str] = {"merge": MERGE_PATCH, "strategic": STRATEGIC_PATCH, "json": JSON_PATCH}


@dataclass(frozen=True, slots=True)
class ObjectList:
    """A list at one revision of the store, from which a watch can go on."""

    items: list[Object]
    revision: int


def check_response(response: Response) -> Any:
    """The body of a success; raises the ApiError a failure carries."""
    if response.status < 400:
        return response.body
    if isinstance(response.body, dict) and response.body.get("kind") == "Status":
        raise ApiError.from_status({"code": response.status, **response.body})
    raise ApiError(response.status, "", str(response.body).strip() or f"HTTP status {response.status}")


def check_object(response: Response) -> Any:
    """As `check_response`, where the body must be an object: other servers answer 200 with a page of theirs."""
    body = check_response(response)
    if not isinstance(body, dict):
        raise ApiError(502, "", f"no object of the Kubernetes API: {str(body).strip()[:80]!r}")
    return body


class Api:
    """One API server. Objects handed out are shared: copy before changing them."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def request(self, method: str, path: str, *, query: Mapping[str, str] = NO_QUERY, body: Any = None) -> Any:
        """Any path: for what has no method of its own here."""
        return check_response(await self.transport.request(method, path, query=query, body=body))

    async def get(
        self, kind: Kind, name: str, namespace: str | None = None, *, subresource: str | None = None
    ) -> Object:
        response = await self.transport.request("GET", kind.path(namespace, name, subresource))
        return check_object(response)  # type: ignore[no-any-return]

    async def list(self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = "") -> ObjectList:
        """All objects of a kind, of one namespace or of all (None)."""
        response = await self.transport.request("GET", kind.path(namespace), query=_selectors(labels, fields))
        body = check_object(response)
        items = body.get("items") or []
        if items and "kind" not in items[0]:  # upstream leaves the type out in lists; ours repeats it
            items = [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in items]
        return ObjectList(items, int(body.get("metadata", {}).get("resourceVersion") or 0))

    async def create(self, kind: Kind, obj: Object, *, subresource: str | None = None) -> Object:
        """POST to the collection, or to the object's subresource. A name that is taken is ApiError 409."""
        name = name_of(obj) if subresource else None
        path = kind.path(namespace_of(obj) or None, name, subresource)
        return check_response(await self.transport.request("POST", path, body=obj))  # type: ignore[no-any-return]

    async def update(self, kind: Kind, obj: Object, *, subresource: str | None = None) -> Object:
        """PUT. With ``metadata.resourceVersion`` set, a change in between is ApiError 409 Conflict."""
        path = kind.path(namespace_of(obj) or None, name_of(obj), subresource)
        return check_response(await self.transport.request("PUT", path, body=obj))  # type: ignore[no-any-return]

    async def patch(
        self,
        kind: Kind,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        patch_type: PatchType = "merge",
        subresource: str | None = None,
    ) -> Object:
        response = await self.transport.request(
            "PATCH",
            kind.path(namespace, name, subresource),
            body=patch,
            content_type=_CONTENT_TYPES[patch_type],
        )
        return check_response(response)  # type: ignore[no-any-return]

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        grace_period_s: int | None = None,
        propagation: Propagation | None = None,
        uid: str | None = None,
    ) -> Object:
        """DELETE; with ``uid`` only that very object, else ApiError 409."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        if propagation is not None:
            options["propagationPolicy"] = propagation
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        response = await self.transport.request("DELETE", kind.path(namespace, name), body=options)
        return check_response(response)  # type: ignore[no-any-return]

    async def bind(self, pod: Mapping[str, Any], node: str) -> None:
        """Place a pod on a node (POST ``pods/NAME/binding``), if it is still the pod of that uid."""
        metadata = pod["metadata"]
        namespace, name = metadata.get("namespace"), metadata["name"]
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": metadata.get("uid", "")},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/binding"
        check_response(await self.transport.request("POST", path, body=body))

    async def watch(
        self, kind: Kind, namespace: str | None = None, *, revision: int, labels: str = "", fields: str = ""
    ) -> WatchStream:
        """Every change after ``revision``. Raises ApiError, 410 Expired when that revision is compacted."""
        query = {
            "watch": "true",
            "resourceVersion": str(revision),
            "allowWatchBookmarks": "true",
            **_selectors(labels, fields),
        }
        return await self.transport.watch(kind.path(namespace), query)

    async def close(self) -> None:
        await self.transport.close()


def _selectors(labels: str, fields: str) -> dict[str, str]:
    query = {}
    if labels:
        query["labelSelector"] = labels
    if fields:
        query["fieldSelector"] = fields
    return query
