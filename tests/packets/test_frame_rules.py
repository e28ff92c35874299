"""Rules that see frames (nftables' families bridge and netdev, ingress of inet), of people and of netsim's own faults:
explain predicts and trace sees the same outcome in the same place.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from netsim.cluster.handle import Cluster
from netsim.observe.explain.answer import render_explanation
from netsim.observe.path import Path
from netsim.observe.pathtext import render_text
from netsim.testing.lookup import cluster_ip, node_ip, pod_ip
from tests.features import missing_feature
from tests.kernel.faults.snapshot import run_in_sandbox
from tests.packets.world import EXTERNAL, make_pod, make_service

pytestmark = [pytest.mark.needs("root", "nft"), pytest.mark.netsim(nodes=3, proxy_mode="iptables")]

N1, N2, N3 = "node/node-1", "node/node-2", "node/node-3"
CLIENT, BESIDE, WEB, THIRD = (f"pod/{{ns}}/{name}" for name in ("client", "beside", "web", "third"))
TO_BESIDE, TO_WEB = f"{BESIDE}:8080", f"{WEB}:8080"
SERVICE = "svc/{ns}/beside:80"
ANSWER_S, SILENCE_S = 0.7, 0.15  # how long an answer is waited for, and one that must not come
Network = Literal["", "routes", "vxlan"]
LOSSY = pytest.mark.skipif(missing_feature("netem") is None, reason="where there is netem, a loss is no rule")


@dataclass(frozen=True)
class Case:
    """A table "fw" with one chain in a place, and where a packet from ``source`` to ``target`` then ends."""

    place: str
    chain: str  # family, hook, priority or device, ...: "bridge forward -200"
    rule: str
    source: str
    target: str
    outcome: str
    where: str
    network: Network = ""
    protocol: Literal["tcp", "udp", "icmp"] = "tcp"
    before: str = ""  # a command in the source, first

    def __str__(self) -> str:
        return f"{self.chain} in {self.place}: {self.rule}; {self.source} to {self.target}"

    @property
    def table(self) -> str:
        family, hook, where = self.chain.split()
        base = f"hook {hook} " + (f"priority {where};" if family == "bridge" else f"device {where} priority 0;")
        return f"table {family} fw {{ chain c {{ type filter {base}\n{self.rule}\n}}\n}}"


def lost(place: str, chain: str, rule: str, source: str, target: str, **more: Any) -> Case:
    return Case(place, chain, rule, source, target, "dropped", place, **more)


CASES = (
    lost(N1, "bridge forward -200", "ip daddr {beside} tcp dport 8080 counter drop", CLIENT, TO_BESIDE),
    lost(N1, "bridge forward 300", "ip saddr {beside} tcp sport 8080 drop", CLIENT, TO_BESIDE),
    lost(N1, "bridge prerouting -300", "ip daddr {service} drop", CLIENT, SERVICE),
    lost(N1, "bridge prerouting 0", "ip daddr {service} drop", CLIENT, SERVICE),
    lost(N1, "bridge prerouting 100", "ip daddr {beside} drop", CLIENT, SERVICE),
    Case(N1, "bridge prerouting 100", "ip daddr {service} drop", CLIENT, SERVICE, "delivered", BESIDE),
    Case(N1, "bridge prerouting -300", "ip daddr {beside} drop", CLIENT, SERVICE, "delivered", BESIDE),
    lost(N1, "bridge postrouting 300", "ip daddr {beside} drop", CLIENT, SERVICE),
    lost(N1, "bridge input -200", "tcp dport 8080 drop", CLIENT, TO_WEB),
    lost(N2, "bridge output -200", "tcp dport 8080 drop", CLIENT, TO_WEB),
    lost(N2, "bridge postrouting -200", "tcp dport 8080 drop", CLIENT, TO_WEB),
    Case(N2, "bridge forward -200", "tcp dport 8080 drop", CLIENT, TO_WEB, "delivered", WEB),
    lost(N1, "bridge input -200", "meta pkttype host tcp dport 8080 drop", CLIENT, TO_WEB),
    lost(N1, "bridge forward -200", "meta pkttype other tcp dport 8080 drop", CLIENT, TO_BESIDE),
    lost(N1, "bridge forward -200", "meta protocol ip th dport 8080 drop", CLIENT, TO_BESIDE),
    Case(
        N1, "bridge forward -200", "ether type arp drop", CLIENT, TO_BESIDE, "no route", CLIENT,
        before="ip neighbour flush dev eth0 nud reachable; ip neighbour flush dev eth0 nud stale; "
        "ip neighbour del {beside} dev eth0; true",
    ),
    lost(N1, "netdev ingress cni0", "tcp dport 8080 drop", CLIENT, TO_WEB),
    lost(N2, "netdev egress cni0", "tcp dport 8080 drop", CLIENT, TO_WEB),
    lost(N2, "netdev ingress eth0", "tcp dport 8080 drop", CLIENT, TO_WEB, network="routes"),
    lost(N2, "inet ingress eth0", "tcp dport 8080 drop", CLIENT, TO_WEB, network="routes"),
    lost(N1, "netdev egress eth0", "tcp dport 8080 drop", CLIENT, TO_WEB, network="routes"),
    lost(N1, "netdev egress vxlan0", "tcp dport 8080 drop", CLIENT, TO_WEB, network="vxlan"),
    lost(N1, "netdev egress eth0", "udp dport 8472 drop", CLIENT, TO_WEB, network="vxlan"),
    lost(N2, "inet ingress eth0", "udp dport 8472 drop", CLIENT, TO_WEB, network="vxlan"),
    lost(N2, "netdev ingress vxlan0", "tcp dport 8080 drop", CLIENT, TO_WEB, network="vxlan"),
    Case(N2, "netdev ingress eth0", "tcp dport 8080 drop", CLIENT, TO_WEB, "delivered", WEB, network="vxlan"),
    lost(CLIENT, "netdev egress eth0", "tcp dport 8080 drop", CLIENT, TO_WEB),
    lost(WEB, "netdev egress eth0", "tcp sport 8080 drop", CLIENT, TO_WEB),
    lost(WEB, "netdev ingress eth0", "tcp dport 8080 drop", CLIENT, TO_WEB),
    lost(WEB, "netdev egress lo", "tcp dport 8080 drop", WEB, TO_WEB),
    lost(WEB, "netdev ingress lo", "tcp dport 8080 drop", WEB, TO_WEB),
)  # fmt: skip


class World:
    """Pods ``client`` and ``beside`` on node-1, ``web`` on node-2, ``third`` on node-3, and what cases name."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        nodes = {"client": "node-1", "beside": "node-1", "web": "node-2", "third": "node-3"}
        pods = [make_pod(name, node=node, app=name) for name, node in nodes.items()]
        cluster.apply([*pods, make_service("beside", app="beside")], namespace=namespace)
        self.words = {
            "ns": namespace,
            "beside": pod_ip(cluster, "beside", namespace),
            "service": cluster_ip(cluster, "beside", namespace),
        }

    def fill(self, text: str) -> str:
        """With values for {names}; the braces of nft stay."""
        for name, value in self.words.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def run(self, place: str, command: str) -> None:
        self.cluster.exec(self.fill(place), ["sh", "-c", self.fill(command)], check=True)

    @contextmanager
    def table(self, case: Case) -> Iterator[None]:
        self.run(case.place, f"nft '{case.table}'")
        try:
            yield
        finally:
            self.run(case.place, f"nft delete table {case.table.split()[1]} fw")

    def differences(
        self, source: str, target: str, expected: tuple[str, str], hook: str = "", **options: Any
    ) -> list[str]:
        """What explain and trace say otherwise: where it ends, and, of rules in tables "fw", at which hook they are."""
        ask = self.fill(source), self.fill(target)
        found = self.cluster.explain(*ask, **options)
        timeout_s = ANSWER_S if expected[0] == "delivered" else SILENCE_S
        seen = self.cluster.trace(*ask, timeout_s=timeout_s, **options)
        wanted = expected[0], self.fill(expected[1])
        wrong = []
        if [judged(way.path) for way in found.ways] != [wanted] or found.notes or hooks_of(found.path) - {hook}:
            wrong.append(f"not {wanted}:\n{render_explanation(found)}")
        if judged(seen) != wanted or hooks_of(seen) - {hook}:
            wrong.append(f"not {wanted}:\n{render_text(seen, everything=True)}")
        return wrong


def judged(path: Path) -> tuple[str, str]:
    return path.verdict.outcome, path.verdict.place


def hooks_of(path: Path) -> set[str]:
    return {hop.hook for hop in path.hops if hop.kind == "hook" for rule in hop.rules if rule.table == "fw"}


@pytest.fixture
def world(cluster: Cluster, namespace: str) -> Iterator[World]:
    yield World(cluster, namespace)
    cluster.undo_faults()


def test_rules_that_see_frames(world: World, pod_network: str) -> None:
    wrong = []
    for case in CASES:
        if case.network not in ("", pod_network):
            continue
        if case.before:
            world.run(case.source, case.before)
        with world.table(case):
            expected, hook = (case.outcome, case.where), case.chain.split()[1]
            wrong += [f"{case}: {words}" for words in world.differences(case.source, case.target, expected, hook)]
    assert not wrong, "\n\n".join(wrong)


def test_a_refusal_of_a_device_comes_back(world: World) -> None:
    """What refused can't be traced: the hook is before those where tracing begins."""
    case = Case(WEB, "netdev ingress eth0", "tcp dport 8080 reject with tcp reset", CLIENT, TO_WEB, "rejected", WEB)
    with world.table(case):
        source, target = world.fill(CLIENT), world.fill(TO_WEB)
        found, seen = world.cluster.explain(source, target).path, world.cluster.trace(source, target)
    place = world.fill(WEB)
    assert judged(found) == ("rejected", place)
    assert "netdev fw c: tcp dport 8080 reject with tcp reset" in found.verdict.cause
    assert judged(seen) == ("refused", place)
    crossed = [
        [(hop.place, hop.interface) for hop in p.hops if hop.leg == "back" and hop.interface] for p in (found, seen)
    ]
    assert crossed[0] == crossed[1]


@dataclass(frozen=True)
class Cut:
    """A fault, and where packets end with it: source, target, outcome, place."""

    kind: str
    places: tuple[Any, ...]
    values: dict[str, Any]
    ends: tuple[tuple[str, str, str, str], ...]

    def make(self, world: World) -> AbstractContextManager[Any]:
        places = [world.fill(place) if isinstance(place, str) else place for place in self.places]
        return world.cluster.fault(self.kind, *places, **self.values)


FABRIC = "fabric"
LOST = ("dropped", FABRIC)
PARTITIONS = (
    Cut("partition", (N1, N2), {}, (
        (CLIENT, TO_WEB, *LOST), (WEB, f"{CLIENT}:8080", *LOST), (N1, N2, *LOST),
        (CLIENT, f"{THIRD}:8080", "delivered", THIRD), (CLIENT, TO_BESIDE, "delivered", BESIDE),
    )),
    Cut("partition", ([N1, N3], N2), {}, ((CLIENT, TO_WEB, *LOST), (N2, N3, *LOST), (N1, N3, "delivered", N3))),
    Cut("partition", (N2, N1), {"one_way": True}, ((CLIENT, TO_WEB, *LOST), (N1, N2, *LOST), (N2, N1, *LOST))),
    Cut("partition", (EXTERNAL, N2), {}, ((EXTERNAL, N2, *LOST), (N2, EXTERNAL, *LOST), (WEB, EXTERNAL, *LOST))),
    Cut("partition", (N2, EXTERNAL), {"one_way": True}, ((EXTERNAL, N2, *LOST), (N2, EXTERNAL, *LOST))),
)  # fmt: skip
ALL_LOST = {"percent": 100}
LOSSES = (
    Cut("loss", (N2,), ALL_LOST, (
        (CLIENT, TO_WEB, *LOST), (EXTERNAL, N2, *LOST), (CLIENT, TO_BESIDE, "delivered", BESIDE),
    )),
    Cut("loss", (N2,), {**ALL_LOST, "direction": "out"}, ((CLIENT, TO_WEB, *LOST), (WEB, f"{CLIENT}:8080", *LOST))),
    Cut("loss", (WEB,), {**ALL_LOST, "direction": "in"}, ((CLIENT, TO_WEB, "dropped", N2),)),
    Cut("loss", (WEB,), {**ALL_LOST, "direction": "out"}, ((CLIENT, TO_WEB, "dropped", N2),)),
    Cut("loss", (CLIENT,), {**ALL_LOST, "direction": "in"}, (
        (CLIENT, TO_WEB, "dropped", N1), (CLIENT, TO_BESIDE, "dropped", N1),
    )),
    Cut("loss", (EXTERNAL,), ALL_LOST, ((EXTERNAL, N1, *LOST), (CLIENT, TO_WEB, "delivered", WEB))),
)  # fmt: skip


@pytest.mark.netsim(ip_family="dual")
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("cuts", [PARTITIONS, pytest.param(LOSSES, marks=LOSSY)], ids=["partitions", "losses"])
def test_faults_between_places_that_know_each_other(
    world: World, cuts: tuple[Cut, ...], family: Literal["ipv4", "ipv6"]
) -> None:
    wrong = []
    for cut in cuts:
        introduce(world.cluster, 6 if family == "ipv6" else 4)
        with cut.make(world):
            for source, target, *expected in cut.ends:
                protocol = "tcp" if ":" in target else "icmp"
                found = world.differences(
                    source, target, (expected[0], expected[1]), protocol=protocol, ip_family=family
                )
                wrong += [f"{cut}: {source} to {target}: {words}" for words in found]
    assert not wrong, "\n\n".join(wrong)


def introduce(cluster: Cluster, family: int) -> None:
    """Everybody has everybody's link address, as after any traffic."""
    nodes = {name: node_ip(cluster, name, family=family) for name in ("node-1", "node-2", "node-3")}
    for place in (N1, N2, N3, EXTERNAL):
        pings = " & ".join(f"ping -q -c1 -W2 {address}" for address in nodes.values())
        cluster.exec(place, ["sh", "-c", f"{pings} & wait"], check=True)


@pytest.mark.netsim(fresh=True)
def test_a_partition_of_nodes_that_never_met(world: World, pod_network: str) -> None:
    """The fabric has not learned where they are, and sends frames for one to all. With VXLAN nodes ask for each other,
    and hear nothing.
    """
    assert run_in_sandbox(world.cluster, "bridge fdb show br fabric0 | grep -v permanent || true") == ""
    end = ("dropped", FABRIC) if pod_network == "routes" else ("no route", N1)
    with world.cluster.fault("partition", N1, N3):
        wrong = world.differences(CLIENT, f"{THIRD}:8080", end)
        wrong += world.differences(THIRD, f"{CLIENT}:8080", end if pod_network == "routes" else ("no route", N3))
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.netsim(ip_family="dual", fresh=True, pod_network="routes")
def test_a_partition_from_the_router_that_nobody_met(world: World, family: Literal["ipv4", "ipv6"]) -> None:
    with world.cluster.fault("partition", EXTERNAL, N2):
        wrong = world.differences(EXTERNAL, N2, ("no route", FABRIC), protocol="icmp", ip_family=family)
        wrong += world.differences(N2, EXTERNAL, ("no route", N2), protocol="icmp", ip_family=family)
    assert not wrong, "\n\n".join(wrong)


@LOSSY
def test_a_loss_by_chance_has_its_odds(world: World) -> None:
    source, target = world.fill(CLIENT), world.fill(TO_WEB)
    with world.cluster.fault("loss", world.fill(WEB), percent=30, direction="in"):
        found = world.cluster.explain(source, target)
    odds = {way.path.verdict.outcome: round(way.probability, 3) for way in found.ways}
    assert odds == {"delivered": 0.7, "dropped": 0.3}
    assert (found.complete, found.notes) == (True, ())
