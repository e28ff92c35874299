"""EndpointSlices: every endpoint in exactly one slice, and nothing to do the second time."""

from hypothesis import given
from hypothesis import strategies as st

from netsim.controllers.plan_endpoints import plan_groups
from netsim.controllers.plan_slices import SlicePlan, plan_slices
from netsim.model.objects import Object, name_of

LIMIT = 4
numbers = st.integers(0, 30)
ready = st.dictionaries(numbers, st.booleans(), max_size=25)
families = st.sampled_from([["IPv4"], ["IPv6"], ["IPv4", "IPv6"], ["IPv6", "IPv4"]])
targets = st.sampled_from([8080, "http", None])


def make_service(ip_families: list[str], target: object) -> Object:
    port = {"name": "http", "port": 80, **({"targetPort": target} if target else {})}
    spec = {"selector": {"app": "web"}, "ipFamilies": ip_families, "ports": [port]}
    metadata = {"name": "web", "namespace": "default", "uid": "service", "labels": {"team": "blue"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def make_pod(number: int, is_ready: bool) -> Object:
    # Every third pod names its port differently, so named ports need slices of their own.
    port = {"name": "http", "containerPort": 9090 if number % 3 == 0 else 8080}
    status = {
        "phase": "Running",
        "podIP": f"10.0.0.{number}",
        "podIPs": [{"ip": f"10.0.0.{number}"}, {"ip": f"fd00::{number:x}"}],
        "conditions": [{"type": "Ready", "status": str(is_ready)}],
    }
    return {
        "metadata": {"name": f"web-{number}", "namespace": "default", "uid": f"uid-{number}"},
        "spec": {"nodeName": f"node-{number % 3}", "containers": [{"name": "c", "ports": [port]}]},
        "status": status,
    }


class Slices:
    """What the API would hold after each plan."""

    def __init__(self) -> None:
        self.existing: dict[str, Object] = {}
        self.made = 0

    def apply(self, plan: SlicePlan) -> None:
        for wanted in plan.create:
            self.made += 1
            name = f"web-{self.made}"
            self.existing[name] = {**wanted, "metadata": {**wanted["metadata"], "name": name}}
        for wanted in plan.update:
            assert name_of(wanted) in self.existing
            self.existing[name_of(wanted)] = wanted
        for gone in plan.delete:
            del self.existing[name_of(gone)]

    def plan(self, service: Object, pods: dict[int, bool]) -> SlicePlan:
        groups = plan_groups(
            service, [make_pod(n, is_ready) for n, is_ready in pods.items()], lambda node: f"zone-of-{node}"
        )
        return plan_slices(service, groups, self.existing.values(), "", max_endpoints=LIMIT)


def addresses(slices: Slices) -> list[str]:
    return sorted(e["addresses"][0] for s in slices.existing.values() for e in s["endpoints"])


@given(families, targets, st.lists(ready, min_size=1, max_size=5))
def test_each_pod_is_in_one_slice_and_a_second_plan_is_empty(
    ip_families: list[str], target: object, states: list[dict[int, bool]]
) -> None:
    service, slices = make_service(ip_families, target), Slices()
    for pods in states:
        slices.apply(slices.plan(service, pods))
        expected = sorted(f"10.0.0.{n}" if family == "IPv4" else f"fd00::{n:x}" for n in pods for family in ip_families)
        assert addresses(slices) == expected
        assert all(len(s["endpoints"]) <= LIMIT for s in slices.existing.values())
        assert {s["addressType"] for s in slices.existing.values()} == set(ip_families)
        for found in slices.existing.values():
            for endpoint in found["endpoints"]:
                number = int(endpoint["targetRef"]["name"].removeprefix("web-"))
                assert endpoint["conditions"]["ready"] == pods[number]
                assert (((":" in endpoint["addresses"][0]) and "IPv6") or "IPv4") == found["addressType"]
        assert not slices.plan(service, pods)


@given(st.sets(numbers, min_size=1, max_size=25), st.integers(0, 24))
def test_a_changed_condition_is_one_update(present: set[int], index: int) -> None:
    service, slices = make_service(["IPv4"], 8080), Slices()
    pods = dict.fromkeys(sorted(present), True)
    slices.apply(slices.plan(service, pods))
    pods[sorted(present)[index % len(present)]] = False
    plan = slices.plan(service, pods)
    assert (len(plan.create), len(plan.update), len(plan.delete)) == (0, 1, 0)


@given(st.sets(numbers, min_size=2, max_size=25), st.integers(0, 24))
def test_a_pod_that_goes_is_one_write(present: set[int], index: int) -> None:
    service, slices = make_service(["IPv4"], 8080), Slices()
    pods = dict.fromkeys(sorted(present), True)
    slices.apply(slices.plan(service, pods))
    del pods[sorted(present)[index % len(present)]]
    plan = slices.plan(service, pods)
    assert len(plan.create) + len(plan.update) + len(plan.delete) == 1


@given(ready)
def test_deleting_all_slices_brings_them_back(pods: dict[int, bool]) -> None:
    service, slices = make_service(["IPv4"], 8080), Slices()
    slices.apply(slices.plan(service, pods))
    before = addresses(slices)
    slices.existing.clear()
    slices.apply(slices.plan(service, pods))
    assert addresses(slices) == before
    assert slices.existing
