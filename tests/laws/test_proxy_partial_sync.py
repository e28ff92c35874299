"""Whatever happens in whatever order, partial syncs end where a fresh full sync does; in memory, on three nodes."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netsim.model.objects import Object
from netsim.ruleset.iptables import parse_edits
from netsim.ruleset.iptables_model import apply_edits, make_tables
from proxy.iptables.plan import IptablesDialect
from proxy.servicemap import ServiceMap
from tests.unit.proxy.make import make_endpoint, make_service, make_slice, make_view

NODES = ("node-1", "node-2", "node-3")
NAMES = ("a", "b", "c")
PORTS = [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]

ENDPOINTS = st.builds(
    make_endpoint,
    st.integers(2, 6).map(lambda n: f"10.244.1.{n}"),
    st.sampled_from(NODES),
    st.sampled_from(["ready", "unready", "terminating", "gone"]),
    hints=st.sampled_from([{}, {"forZones": [{"name": "z1"}]}, {"forNodes": [{"name": "node-1"}]}]),
)


@st.composite
def services(draw: st.DrawFn) -> Object:
    name = draw(st.sampled_from(NAMES))
    number = NAMES.index(name)
    kind = draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]))
    ports = [dict(p) for p in draw(st.sampled_from([PORTS, PORTS[:1], PORTS[1:]]))]
    if kind in ("NodePort", "LoadBalancer"):
        for at, port in enumerate(ports):
            port["nodePort"] = 30000 + 10 * number + at
    ingress = draw(st.sampled_from([[], [{"ip": f"192.0.2.{number}"}]]))
    spec: dict[str, Any] = {
        "externalTrafficPolicy": draw(st.sampled_from(["Cluster", "Local"])),
        "internalTrafficPolicy": draw(st.sampled_from(["Cluster", "Local"])),
        "sessionAffinity": draw(st.sampled_from(["None", "ClientIP"])),
        "externalIPs": draw(st.sampled_from([[], [f"198.51.100.{number}"]])),
        "loadBalancerSourceRanges": draw(st.sampled_from([[], ["203.0.113.0/24"], ["172.18.0.0/16"]])),
        "healthCheckNodePort": draw(st.sampled_from([0, 31000 + number])),
        "status": {"loadBalancer": {"ingress": ingress}},
    }
    return make_service(name, f"10.96.0.{number + 1}", type=kind, ports=ports, **spec)


@st.composite
def slices(draw: st.DrawFn) -> Object:
    service = draw(st.sampled_from(NAMES))
    name = f"{service}-{draw(st.sampled_from('xy'))}"
    numbers = [{"name": p["name"], "port": draw(st.integers(8080, 8081)), "protocol": p["protocol"]} for p in PORTS]
    return make_slice(draw(st.lists(ENDPOINTS, max_size=4)), service, name, ports=numbers)


STEPS = st.lists(
    st.one_of(
        services(),
        slices(),
        st.tuples(st.just("services"), st.sampled_from(NAMES)),
        st.tuples(st.just("slices"), st.sampled_from([f"{n}-{x}" for n in NAMES for x in "xy"])),
        st.just("sync"),
    ),
    max_size=25,
)


class Cluster:
    """The objects, a map fed by them, and three nodes with rules."""

    def __init__(self) -> None:
        self.services: dict[str, Object] = {}
        self.slices: dict[str, Object] = {}
        self.map = ServiceMap(4)
        self.dialect = IptablesDialect()
        self.views = {node: make_view(node, zone="z1" if node == "node-2" else "z2") for node in NODES}
        self.tables = {}
        self.states = {}
        for node, view in self.views.items():
            plan = self.dialect.plan_full(self.map.snapshot(), view, {})
            self.tables[node] = apply_edits(make_tables(), parse_edits(plan.text))
            self.states[node] = plan.state

    def do(self, step: Any) -> None:
        if step == "sync":
            self.sync()
        elif isinstance(step, tuple):
            kind, name = step
            old = getattr(self, kind).pop(name, None)
            if old is not None:
                (self.map.update_service if kind == "services" else self.map.update_slice)(old, None)
        else:
            known, update = (
                (self.slices, self.map.update_slice)
                if "endpoints" in step
                else (self.services, self.map.update_service)
            )
            name = step["metadata"]["name"]
            update(known.get(name), step)
            known[name] = step

    def sync(self) -> None:
        changed = self.map.take()
        for node, view in self.views.items():
            plan = self.dialect.plan_changes(self.map.snapshot(), changed, self.states[node], view)
            assert not plan.text or changed
            self.tables[node] = apply_edits(self.tables[node], parse_edits(plan.text))
            self.states[node] = plan.state

    def fresh(self, node: str) -> Any:
        service_map = ServiceMap(4)
        for service in self.services.values():
            service_map.update_service(None, service)
        for item in self.slices.values():
            service_map.update_slice(None, item)
        service_map.take()
        plan = IptablesDialect().plan_full(service_map.snapshot(), self.views[node], {})
        return apply_edits(make_tables(), parse_edits(plan.text))


@settings(max_examples=150)
@given(STEPS)
def test_partial_syncs_end_where_a_full_sync_does(steps: list[Any]) -> None:
    cluster = Cluster()
    for step in steps:
        cluster.do(step)
    cluster.sync()
    for node in NODES:
        assert cluster.tables[node] == cluster.fresh(node)


@settings(max_examples=50)
@given(STEPS)
def test_a_second_full_sync_changes_nothing(steps: list[Any]) -> None:
    cluster = Cluster()
    for step in steps:
        cluster.do(step)
    cluster.sync()
    tables = cluster.tables["node-2"]
    plan = cluster.dialect.plan_full(cluster.map.snapshot(), cluster.views["node-2"], tables)
    assert apply_edits(tables, parse_edits(plan.text)) == tables


@settings(max_examples=50)
@given(STEPS)
def test_cleanup_leaves_nothing(steps: list[Any]) -> None:
    cluster = Cluster()
    for step in steps:
        cluster.do(step)
    cluster.sync()
    plan = cluster.dialect.plan_cleanup(4, cluster.tables["node-1"])
    assert apply_edits(cluster.tables["node-1"], parse_edits(plan.text)) == make_tables()
