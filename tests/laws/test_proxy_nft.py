"""Laws of the nftables dialect, in memory: differences end where a fresh table does, and iptables mode agrees."""

from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netsim.model.objects import Object
from netsim.ruleset.iptables_walk import Packet, Walker
from netsim.ruleset.nft_model import Table, apply_edits
from netsim.ruleset.nft_walk import NftWalker
from proxy.nftables.chains import ChainKey
from proxy.nftables.plan import NftablesDialect
from proxy.servicemap import ServiceMap
from tests.laws.test_proxy_partial_sync import NODES, STEPS, services, slices
from tests.unit.proxy.make import NODE_IP, make_rules, make_view
from tests.unit.proxy.nftables.make import CONFIG, make_table

SHARED_IP = "198.51.100.77"  # that several services ask for


@st.composite
def claimed(draw: st.DrawFn) -> Object:
    """A Service that may ask for an address that others ask for too."""
    service = draw(services())
    extra = draw(st.sampled_from([[], [SHARED_IP], ["10.96.0.2"], [SHARED_IP, "10.96.0.1"]]))
    spec = service["spec"]
    return {**service, "spec": {**spec, "externalIPs": [*(spec.get("externalIPs") or ()), *extra]}}


class Cluster:
    """The objects, a map fed by them, and three nodes with tables."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.map = ServiceMap(4)
        self.dialect = NftablesDialect()
        self.views = {node: make_view(node, "z1" if node == "node-2" else "z2", CONFIG) for node in NODES}
        self.tables: dict[str, Table | None] = {}
        self.states: dict[str, Any] = {}
        for node, view in self.views.items():
            plan = self.dialect.plan_full(self.map.snapshot(), view, None)
            self.tables[node] = apply_edits(None, plan.edits)
            self.states[node] = plan.state

    def do(self, step: Any) -> None:
        if step == "sync":
            self.sync()
            return
        if isinstance(step, tuple):
            kind, name = step
            old, new = self.objects.pop((kind, name), None), None
        else:
            kind = "slices" if "endpoints" in step else "services"
            old, new = self.objects.get((kind, step["metadata"]["name"])), step
            self.objects[kind, step["metadata"]["name"]] = step
        if old is not None or new is not None:
            (self.map.update_slice if kind == "slices" else self.map.update_service)(old, new)

    def sync(self) -> None:
        changed = self.map.take()
        for node, view in self.views.items():
            plan = self.dialect.plan_changes(self.map.snapshot(), changed, self.states[node], view)
            self.tables[node] = apply_edits(self.tables[node], plan.edits)
            self.states[node] = plan.state
            table = self.tables[node]
            assert table is not None
            assert plan.state.rules == sum(map(len, table.chains.values()))

    def fresh(self, node: str) -> Table:
        return make_table(self.objects.values(), self.views[node])


def normal(table: Table | None) -> Any:
    """Without what depends on the way there: numbers of endpoints, the order of chains, chains kept for later."""
    assert table is not None
    elements: dict[str, Any] = {name: dict(found) for name, found in table.elements.items()}
    for name in ("endpoints", "nodeport-endpoints"):
        lists: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
        for key, value in elements[name].items():
            number = int.from_bytes(key[-4:], "little")
            lists[key[:-4] + bytes((number >> 16,))].append((number & 0xFFFF, value))
        elements[name] = {
            key: (sorted(number for number, _ in found), sorted(value for _, value in found))
            for key, found in lists.items()
        }
    wanted = {value.decode() for name, spec in table.sets.items() if spec.verdicts for value in elements[name].values()}
    kept = {ChainKey(*key).name for key in _kept()}
    chains = {name: rules for name, rules in table.chains.items() if name in wanted or name not in kept}
    return elements, chains, table.sets, table.hooks


def _kept() -> list[tuple[str, bool, int, int]]:
    entries = ("cluster", "external", "pod", "local")
    return [(e, n, w, size) for e in entries for n in (False, True) for w in (0, 1) for size in range(1, 9)]


@settings(max_examples=150)
@given(st.lists(st.one_of(claimed(), STEPS.wrapped_strategy.element_strategy), max_size=25))
def test_differences_end_where_a_fresh_table_does(steps: list[Any]) -> None:
    cluster = Cluster()
    for step in steps:
        cluster.do(step)
    cluster.sync()
    for node in NODES:
        assert normal(cluster.tables[node]) == normal(cluster.fresh(node))


SOURCES = {"10.244.1.9": "cni0", "10.244.1.2": "cni0", "203.0.113.5": "eth0", "198.51.100.200": "eth0", NODE_IP: ""}


@settings(max_examples=100)
@given(st.lists(st.one_of(services(), slices()), max_size=10), st.sampled_from(NODES))
def test_iptables_mode_agrees_but_for_the_known_differences(objects: list[Object], node: str) -> None:
    """Two dialects that share the map and nothing after it, walked by two walkers that share nothing."""
    newest = {("endpoints" in obj, obj["metadata"]["name"]): obj for obj in objects}.values()
    view = make_view(node, config=CONFIG)
    own = view.node.ip(4)
    mine = NftWalker(make_table(newest, view), local=(own, "127.0.0.1"))
    theirs = Walker(make_rules(newest, view), local=(own, "127.0.0.1"))
    for number in range(3):
        ports = ((80, "tcp"), (53, "udp"))
        addresses = (f"10.96.0.{number + 1}", f"192.0.2.{number}", f"198.51.100.{number}")
        targets = [(ip, *port) for ip in addresses for port in ports]
        targets += [(own, 30000 + 10 * number + at, protocol) for at in (0, 1) for protocol in ("tcp", "udp")]
        for source, interface in SOURCES.items():
            for address, port, protocol in targets:
                packet = Packet(own if not interface else source, address, port, protocol, interface)
                ours, others = ({_short(f) for f in walker.walk(packet)} for walker in (mine, theirs))
                if ours != others:
                    assert _is_known_difference(packet, ours, others, newest), (packet, ours, others)


def _short(fate: Any) -> tuple[Any, ...]:
    return (fate.verdict, fate.destination, fate.port, fate.masqueraded)


def _is_known_difference(packet: Packet, ours: Any, others: Any, objects: Any) -> bool:
    untouched = {("ACCEPT", packet.destination, packet.port, False)}
    verdicts = {fate[0] for fate in ours}
    if packet.destination.startswith("10.96."):  # no such port, no such address
        return others == untouched and verdicts <= {"REJECT", "DROP"}
    if packet.interface == "":  # iptables refuses and drops for external addresses in INPUT and FORWARD alone
        return others == untouched and verdicts <= {"REJECT", "DROP"}
    # Source ranges hold without endpoints too, and go before a refusal; an address may be external and a balancer's.
    return packet.destination.startswith("192.0.2.") and verdicts == {"DROP"} and {f[0] for f in others} == {"REJECT"}
