"""Whatever a client sends, it gets an answer: never an exception, and nothing half done."""

import asyncio
from copy import deepcopy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netsim.apiserver.core import ApiServer
from netsim.apiserver.request import Request
from netsim.model.config import ClusterConfig
from netsim.model.kinds import KINDS, Kind
from netsim.store.store import Store
from tests.fake_clock import FakeClock

LABELS = {"app": "x"}
PROBE = {"httpGet": {"port": 80}}
CONTAINER = {
    "name": "c",
    "image": "nginx",
    "ports": [{"containerPort": 80, "name": "http"}],
    "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    "readinessProbe": PROBE,
    "resources": {"limits": {"cpu": "1"}},
}
POD_SPEC = {
    "containers": [CONTAINER],
    "volumes": [{"name": "v", "configMap": {"name": "c"}}],
    "tolerations": [{"operator": "Exists"}],
    "dnsConfig": {"nameservers": ["10.0.0.1"]},
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["h"]}],
}
WORKLOAD = {
    "selector": {"matchLabels": LABELS, "matchExpressions": [{"key": "app", "operator": "In", "values": ["x"]}]},
    "template": {"metadata": {"labels": LABELS}, "spec": POD_SPEC},
}
BODIES: dict[str, dict[str, Any]] = {
    "Namespace": {"spec": {"finalizers": ["a.b/c"]}},
    "Node": {
        "spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "a", "effect": "NoSchedule"}]},
        "status": {"addresses": []},
    },
    "Pod": {"spec": POD_SPEC},
    "Service": {
        "spec": {
            "type": "LoadBalancer",
            "ports": [{"port": 80, "nodePort": 30080, "targetPort": "http"}],
            "clusterIP": "10.96.0.50",
            "clusterIPs": ["10.96.0.50"],
            "externalIPs": ["192.0.2.1"],
            "ipFamilies": ["IPv4"],
            "externalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
        }
    },
    "ConfigMap": {"data": {"a": "b"}, "binaryData": {"c": "eA=="}},
    "Event": {"involvedObject": {"name": "x", "namespace": "default"}, "series": {"count": 3}, "source": {"host": "n"}},
    "EndpointSlice": {
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n"}],
        "ports": [{"port": 80}],
    },
    "ServiceCIDR": {"spec": {"cidrs": ["10.96.0.0/12", "fd00:10:96::/112"]}, "status": {"conditions": []}},
    "ReplicaSet": {"spec": {"replicas": 1, **WORKLOAD}},
    "Deployment": {"spec": {"strategy": {"rollingUpdate": {"maxSurge": "25%"}}, **WORKLOAD}},
}
METADATA = {
    "name": "x",
    "labels": LABELS,
    "annotations": {"a": "b"},
    "finalizers": ["a.b/c"],
    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}],
}
JUNK = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        2**40,
        1.5,
        "",
        "x",
        "A b/",
        "10.96.0.1",
        "300%",
        [],
        [None],
        ["x"],
        [{}],
        [[]],
        {},
        {"x": None},
        {"name": 1},
    ]
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything inside ``value``."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += paths_of(item, (*path, key))
    return found


def spoil(body: dict[str, Any], path: tuple[Any, ...], junk: Any) -> None:
    """Put junk where a path leads, or where it led before something else was spoilt."""
    target: Any = body
    for key in path[:-1]:
        try:
            target = target[key]
        except (KeyError, IndexError, TypeError):
            return
    last = path[-1]
    fits_map = isinstance(target, dict) and isinstance(last, str)
    fits_list = isinstance(target, list) and isinstance(last, int) and last < len(target)
    if fits_map or fits_list:
        target[last] = deepcopy(junk)


def body_of(kind: Kind) -> dict[str, Any]:
    return deepcopy({"metadata": METADATA, **BODIES[kind.kind]})


def test_every_kind_has_a_body_here() -> None:
    assert {kind.kind for kind in KINDS} == BODIES.keys()


@settings(max_examples=300)
@given(st.data())
def test_a_spoilt_object_is_refused_or_stored(data: Any) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    body, whole = body_of(kind), body_of(kind)
    paths = paths_of(body)
    for _ in range(data.draw(st.integers(1, 3))):
        spoil(body, data.draw(st.sampled_from(paths)), data.draw(JUNK))
    collection = kind.path("default" if kind.namespaced else None)
    patch_type = data.draw(st.sampled_from(["merge-patch", "strategic-merge-patch"]))
    subresource = data.draw(st.sampled_from(["", "", "/status", "/scale"]))

    async def scenario() -> None:
        server = ApiServer(Store(), ClusterConfig(), FakeClock())

        async def send(method: str, path: str, content: Any, content_type: str = "application/json") -> int:
            revision = server.revision()
            answer = await server.handle(Request(method, path, {}, content, content_type))
            if answer.status >= 400:
                assert server.revision() == revision
                assert answer.body["kind"] == "Status"
            return answer.status

        await send("POST", collection, body)
        await server.handle(Request("GET", collection, accept="application/json;as=Table;v=v1;g=meta.k8s.io"))
        await send("DELETE", f"{collection}/x", None)
        if kind.kind != "Event":  # its name may be anything
            await send("PATCH", f"{collection}/x", {"metadata": {"finalizers": None}}, "application/merge-patch+json")
        other = {**whole, "metadata": {"name": "y"}}
        expected = 403 if kind.kind == "ServiceCIDR" else 201  # there is one, and there will be no other
        assert await send("POST", collection, other) == expected or kind.kind == "Service"
        named = {**body, "metadata": {**body["metadata"], "name": "y"}} if isinstance(body["metadata"], dict) else body
        await send("PATCH", f"{collection}/y{subresource}", named, f"application/{patch_type}+json")
        await send("PUT", f"{collection}/y{subresource}", named)
        await send("POST", f"{collection}/y/binding", body)
        await send("DELETE", f"{collection}/y", body)
        await send("DELETE", collection, None)

    asyncio.run(scenario())
