"""What the API server has handed out never changes: informers, watchers and the log share it."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netsim.apiserver.core import ApiServer
from netsim.apiserver.request import Request
from netsim.model.config import ClusterConfig
from netsim.store.log import encode
from netsim.store.store import Store
from tests.fake_clock import FakeClock

NS = "/api/v1/namespaces/default"
APPS = "/apis/apps/v1/namespaces/default"
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
LABELS = {"app": "x"}
CONTAINERS = [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}]
TEMPLATE = {"metadata": {"labels": LABELS}, "spec": {"containers": CONTAINERS}}
CONDITION = {"type": "Ready", "status": "True"}


def created(path: str, **body: Any) -> list[tuple[str, str, Any, str]]:
    return [("POST", path, {"metadata": {"name": "x", "labels": LABELS}, **body}, "")]


def patched(path: str, patch: Any, *types: str) -> list[tuple[str, str, Any, str]]:
    return [("PATCH", path, patch, type_) for type_ in types or (MERGE, STRATEGIC)]


FIRST = [
    *created(f"{NS}/pods", spec=TEMPLATE["spec"]),
    *created(f"{NS}/services", spec={"type": "NodePort", "ports": [{"port": 80}], "selector": LABELS}),
    *created(f"{APPS}/deployments", spec={"selector": {"matchLabels": LABELS}, "template": TEMPLATE}),
    *created("/api/v1/namespaces"),
    *created("/api/v1/namespaces/x/pods", spec=TEMPLATE["spec"]),
]
OPERATIONS = [
    *FIRST,
    ("POST", f"{NS}/pods/x/binding", {"target": {"name": "n1"}}, ""),
    *patched(f"{NS}/pods/x", {"metadata": {"labels": {"more": "y"}, "finalizers": ["a.b/c"]}}),
    *patched(f"{NS}/pods/x", {"metadata": {"finalizers": None}}),
    *patched(f"{NS}/pods/x", {"spec": {"containers": [{"name": "c", "image": "other"}]}}),
    *patched(f"{NS}/pods/x/status", {"status": {"conditions": [CONDITION], "podIP": "10.0.0.1"}}),
    *patched(f"{NS}/pods/x/status", {"metadata": {"annotations": {"a": "b"}}, "status": {"phase": "Running"}}),
    *patched(f"{NS}/services/x", {"spec": {"type": "ClusterIP"}}),
    *patched(f"{NS}/services/x", {"spec": {"ports": [{"port": 80}, {"port": 81, "name": "b"}]}}),
    *patched(f"{NS}/services/x", {"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}}),
    *patched(f"{APPS}/deployments/x", {"spec": {"replicas": 3, "template": {"spec": {"containers": CONTAINERS}}}}),
    *patched(f"{APPS}/deployments/x/scale", {"spec": {"replicas": 4}}, MERGE),
    *patched(f"{APPS}/deployments/x/status", {"status": {"replicas": 4, "conditions": [CONDITION]}}),
    ("DELETE", f"{NS}/pods/x", None, ""),
    ("DELETE", f"{NS}/pods/x", {"gracePeriodSeconds": 0}, ""),
    ("DELETE", f"{NS}/services/x", {"propagationPolicy": "Foreground"}, ""),
    ("DELETE", f"{APPS}/deployments/x", {"propagationPolicy": "Orphan"}, ""),
    ("DELETE", "/api/v1/namespaces/x", None, ""),
    ("PUT", "/api/v1/namespaces/x/finalize", {"metadata": {"name": "x"}}, ""),
    ("DELETE", f"{NS}/pods", None, ""),
]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(OPERATIONS), max_size=25), st.booleans())
def test_what_was_handed_out_never_changes(operations: list[tuple[str, str, Any, str]], dry: bool) -> None:
    async def scenario() -> list[int]:
        store = Store()
        server = ApiServer(store, ClusterConfig(), FakeClock())
        codes = []
        for number, (method, path, body, content_type) in enumerate([*FIRST, *operations]):
            before = repr(body)
            query = {"dryRun": "All"} if dry and number > len(FIRST) and number % 3 == 0 else {}
            codes.append((await server.handle(Request(method, path, query, body, content_type))).status)
            assert repr(body) == before  # nor does what the caller gave
        for resource in store._resources.values():
            for change in resource.window:
                assert encode(change.value) == change.data
            for records in resource.objects.values():
                assert all(encode(record.value) == record.data for record in records.values())
        store.close()
        return codes

    assert all(code < 500 for code in asyncio.run(scenario()))
