"""An API server for tests, called synchronously, and objects to feed it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from netsim.apiserver.core import ApiServer
from netsim.apiserver.request import Request
from netsim.client.transport import Response
from netsim.model.config import ClusterConfig
from netsim.model.errors import ApiError
from netsim.store.store import Store
from tests.fake_clock import FakeClock

Object = dict[str, Any]
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
NS = "/api/v1/namespaces/default"
PODS = f"{NS}/pods"
SERVICES = f"{NS}/services"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


class Server:
    """Verbs that return the body of a success and raise ApiError for a failure."""

    def __init__(self, config: ClusterConfig | None = None, store: Store | None = None) -> None:
        self.clock = FakeClock()
        self.store = store or Store()
        self.core = ApiServer(self.store, config or ClusterConfig(), self.clock)

    def respond(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "",
    ) -> Response:
        request = Request(method, path, query or {}, body, content_type, accept)
        return asyncio.run(self.core.handle(request))

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        response = self.respond(method, path, body, **options)
        if response.status >= 400:
            raise ApiError.from_status(response.body)
        return response.body

    def get(self, path: str, **options: Any) -> Any:
        return self.request("GET", path, **options)

    def create(self, path: str, obj: Object, **options: Any) -> Object:
        return self.request("POST", path, obj, **options)  # type: ignore[no-any-return]

    def update(self, path: str, obj: Object, **options: Any) -> Object:
        return self.request("PUT", path, obj, **options)  # type: ignore[no-any-return]

    def patch(self, path: str, patch: Any, kind: str = "merge", **options: Any) -> Object:
        content_type = f"application/{kind}-patch+json"
        return self.request("PATCH", path, patch, content_type=content_type, **options)  # type: ignore[no-any-return]

    def delete(self, path: str, **body: Any) -> Object:
        return self.request("DELETE", path, body or None)  # type: ignore[no-any-return]

    def names(self, path: str, **query: str) -> list[str]:
        return [item["metadata"]["name"] for item in self.get(path, query=query)["items"]]


def make_pod(name: str = "web", *, labels: Mapping[str, str] | None = None, **spec: Any) -> Object:
    metadata: Object = {"name": name}
    if labels:
        metadata["labels"] = dict(labels)
    return {"metadata": metadata, "spec": {"containers": [{"name": "web", "image": "nginx"}], **spec}}


def make_service(name: str = "web", *ports: Object, **spec: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"ports": list(ports) or [{"port": 80}], **spec}}


def make_deployment(name: str = "web", **spec: Any) -> Object:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": make_pod()["spec"]}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": template, **spec}}
