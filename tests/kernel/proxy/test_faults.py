"""Faults, in every mode: whatever happened to it, a node ends with the rules that a fresh proxy would write."""

import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from netsim.kernel.process import Spawner
from netsim.model.kinds import ENDPOINT_SLICE, SERVICE
from netsim.model.objects import Object
from netsim.testing.waiting import wait_until
from tests.kernel.proxy.faults import (
    MODES,
    Burst,
    Mode,
    ProgramNode,
    assert_like_fresh,
    each_mode,
    make_node_object,
    put,
    remove,
)
from tests.kernel.proxy.node import NODE_IP, PODS, SLOWNESS, RealNode, ask, knock, real_node
from tests.kernel.proxy.test_switch import CLUSTER_IP, ECHO_PORT, Knocking, echo_server
from tests.laws.test_proxy_partial_sync import NAMES, PORTS, slices
from tests.unit.proxy.make import make_endpoint, make_service, make_slice

pytestmark = pytest.mark.needs("root", "command:ip", "nft")

ADDRESSES = (NODE_IP, "172.18.0.9")  # of the Node object; the second one it has on no link
STEADY = make_service("steady", CLUSTER_IP, ports=[{"name": "http", "port": 80}, {"name": "echo", "port": 81}])
STEADY_SLICE = make_slice(
    [make_endpoint(PODS["pod-1"])],
    "steady",
    ports=[{"name": "http", "port": 8080}, {"name": "echo", "port": ECHO_PORT}],
)


# --- sequences of changes ---


@st.composite
def services(draw: st.DrawFn) -> Object:
    """A Service that the API takes, of every type and with every option that rules depend on."""
    name = draw(st.sampled_from(NAMES))
    number = NAMES.index(name)
    kind = draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]))
    if kind == "ExternalName":
        return make_service(name, "", type=kind, externalName="elsewhere.example", clusterIPs=[])
    ports = [dict(port) for port in draw(st.sampled_from([PORTS, PORTS[:1], PORTS[1:]]))]
    external = draw(st.sampled_from([[], [f"198.51.100.{number}"]]))
    spec: dict[str, Any] = {
        "internalTrafficPolicy": draw(st.sampled_from(["Cluster", "Local"])),
        "sessionAffinity": draw(st.sampled_from(["None", "ClientIP"])),
        "externalIPs": external,
    }
    if kind != "ClusterIP":
        for at, port in enumerate(ports):
            port["nodePort"] = 30000 + 10 * number + at
    if kind != "ClusterIP" or external:
        spec["externalTrafficPolicy"] = draw(st.sampled_from(["Cluster", "Local"]))
    if kind == "LoadBalancer":
        spec["loadBalancerSourceRanges"] = draw(st.sampled_from([[], ["203.0.113.0/24"], ["172.18.0.0/16"]]))
        ingress = draw(st.sampled_from([[], [{"ip": f"192.0.2.{number}"}]]))
        spec["status"] = {"loadBalancer": {"ingress": ingress}}
        if spec["externalTrafficPolicy"] == "Local":
            spec["healthCheckNodePort"] = 31000 + number
    return make_service(name, f"10.96.3.{number + 1}", type=kind, ports=ports, **spec)


Step = tuple[str, Any]
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("put"), services()),
        st.tuples(st.just("put"), slices()),
        st.tuples(st.just("remove service"), st.sampled_from(NAMES)),
        st.tuples(st.just("remove slice"), st.sampled_from([f"{n}-{x}" for n in NAMES for x in "xy"])),
        st.tuples(st.just("node"), st.tuples(st.sampled_from(["z1", "z2"]), st.sampled_from(ADDRESSES))),
        st.tuples(st.just("flush"), st.integers(0, 4)),
        st.tuples(st.just("settle"), st.none()),
    ),
    min_size=10,
    max_size=30,
)


EXAMPLES = 6
PROGRAMS = ("ipvsadm ", "ip ", "ipset ")


class Play:
    """The steps on a node whose proxy runs; most follow each other without waiting for the rules."""

    def __init__(self, node: RealNode, mode: Mode) -> None:
        self.node, self.mode, self.address = node, mode, NODE_IP

    def do(self, step: Step) -> None:
        verb, what = step
        api = self.node.api
        if verb == "put":
            self.node.call(put(api, what))
        elif verb == "remove service":
            self.node.call(remove(api, SERVICE, what))
        elif verb == "remove slice":
            self.node.call(remove(api, ENDPOINT_SLICE, what))
        elif verb == "node":
            self.node.call(self._change_node(*what))
        elif verb == "flush":
            commands = self.mode.flush
            spoil(self.node, commands[what % len(commands)])
        else:
            self.node.call(self.node.proxy.settle(self.node.server.revision()))

    async def _change_node(self, zone: str, address: str) -> None:
        self.address = address
        await put(self.node.api, make_node_object(zone, address))
        self.node.proxy.set_addresses("node-1", (address,))


def spoil(node: RealNode, commands: str) -> None:
    """nft commands in the node, or a program; that the table is gone, which they would take away, is as good."""
    if commands.startswith(PROGRAMS):
        with suppress(AssertionError):  # what it would take away is gone, as here after each other
            node.run(node.node, *commands.split())
        return
    script = "add table ip nat\nadd table ip filter\nadd table ip kube-proxy\n" if "flush table" in commands else ""
    if "delete table" in commands:
        script = "add table ip kube-proxy\n"
    node.run(node.node, "nft", "-f", "-", input=f"{script}{commands}\n")


@each_mode
def test_random_changes_and_flushes_end_where_a_fresh_proxy_starts(spawner: Spawner, mode: Mode) -> None:
    """The examples are the same in each run: ``derandomize``."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
    )
    @given(STEPS)
    def play(steps: list[Step]) -> None:
        with real_node(spawner, mode.config) as node:
            stage = Play(node, mode)
            for obj in (STEADY, STEADY_SLICE):
                stage.do(("put", obj))
            for step in steps:
                stage.do(step)
            stage.do(("settle", None))
            assert_like_fresh(node, mode, stage.address)
            assert knock(node.pods["pod-2"], CLUSTER_IP, 80) == f"pod-1 {PODS['pod-2']}"
            # One of those that changed, whatever it went through, is a Service like any other.
            node.call(remove(node.api, SERVICE, "a"))
            node.call(remove(node.api, ENDPOINT_SLICE, "a-x"))
            node.call(remove(node.api, ENDPOINT_SLICE, "a-y"))
            stage.do(("put", make_service("a", "10.96.3.1", type="NodePort", ports=[_port(30000)])))
            stage.do(("put", make_slice([make_endpoint(PODS["pod-3"])], "a", "a-x")))
            stage.do(("settle", None))
            assert knock(node.pods["pod-2"], "10.96.3.1", 80).startswith("pod-3 ")

    play()


def _port(node_port: int) -> Object:
    return {"name": "http", "port": 80, "nodePort": node_port}


# --- the program killed ---

MANY = 40
KILLS = 2  # twice so many


def make_batch(chance: random.Random) -> list[Object]:
    """Other endpoints for many Services, and now and then another Service."""
    batch: list[Object] = []
    for number in chance.sample(range(MANY), 12):
        name, states = f"s{number}", ["ready", "ready", "terminating", "gone"]
        pods = [make_endpoint(f"10.244.2.{chance.randrange(2, 40)}", "node-2", chance.choice(states)) for _ in "abc"]
        unique = {pod["addresses"][0]: pod for pod in pods}.values()
        batch.append(make_slice(unique, name))
        if chance.random() < 0.3:
            batch.append(make_numbered(number, sessionAffinity=chance.choice(["None", "ClientIP"])))
    return batch


def make_numbered(number: int, **spec: Any) -> Object:
    kind = "NodePort" if number % 3 == 0 else "ClusterIP"
    port = _port(30100 + number) if kind == "NodePort" else {"name": "http", "port": 80}
    return make_service(f"s{number}", f"10.96.1.{number + 1}", type=kind, ports=[port], **spec)


@contextmanager
def program_node(spawner: Spawner, mode: Mode, folder: Path) -> Iterator[ProgramNode]:
    """A node with the program, its first rules written."""
    node = ProgramNode(spawner, mode, folder)
    node.start()
    try:
        objects = [STEADY, STEADY_SLICE, *(make_numbered(number) for number in range(MANY))]
        for obj in [*objects, *(make_slice([make_endpoint("10.244.2.2")], f"s{n}") for n in range(MANY))]:
            node.call(put(node.api, obj))
        node.launch()
        wait_until(
            "the first rules", lambda: ask(node.pods["pod-2"], CLUSTER_IP, 80).startswith("pod-1"), 30 * SLOWNESS
        )
        yield node
    finally:
        node.close()


@each_mode
def test_killed_in_the_middle_of_syncs_and_without_the_api(spawner: Spawner, mode: Mode, tmp_path: Path) -> None:
    """Established connections and new ones to a Service that stays never notice; nothing half done is left."""
    chance = random.Random(mode.name)
    with program_node(spawner, mode, tmp_path) as node:
        client = node.pods["pod-2"].socket(socket.AF_INET, socket.SOCK_STREAM)

        def echoes() -> bool:
            client.sendall(b"alive")
            return client.recv(100) == b"alive"

        with echo_server(node.pods["pod-1"]), client, Knocking(node.pods["pod-2"]) as knocking:
            client.settimeout(5)
            client.connect((CLUSTER_IP, 81))
            with Burst(node, make_batch, chance):
                for _ in range(KILLS):
                    start_s = wait_for_change(node, mode)
                    time.sleep(chance.uniform(0, 0.06))  # any instant of the syncs that follow each other now
                    kill(node)
                    time.sleep(chance.uniform(0.8, 1.1) * start_s)  # any instant of the first, full one
                    kill(node)
                    assert echoes()
            without_the_api(node, mode)
            assert echoes()
            assert knocking.failed == []
            assert knocking.count > 50
        assert_like_fresh(node, mode)
        follows_the_node(node, mode)
        assert node.kill(signal.SIGTERM) == 0, node.words()


def kill(node: ProgramNode) -> None:
    assert node.kill(signal.SIGKILL) == -signal.SIGKILL
    node.launch()


def wait_for_change(node: ProgramNode, mode: Mode) -> float:
    """The program just launched has begun to write: the kernel holds something else. The seconds that took it."""
    started_s = time.monotonic()
    before = mode.read(node.node, spawner := node.spawner)
    wait_until("another state of the rules", lambda: mode.read(node.node, spawner) != before, 20 * SLOWNESS)
    return time.monotonic() - started_s


def without_the_api(node: ProgramNode, mode: Mode) -> None:
    """The API goes, the program is killed, starts while nobody listens, and finds what changed meanwhile."""
    node.api_away()
    before = mode.read(node.node, node.spawner)
    node.kill(signal.SIGKILL)
    said = len(node.words())
    node.launch()
    for obj in (make_service("late", "10.96.2.1"), make_slice([make_endpoint(PODS["pod-3"])], "late")):
        node.call(put(node.api, obj))
    wait_until("the program's words", lambda: "waiting for the Node" in node.words()[said:], 20 * SLOWNESS)
    assert mode.read(node.node, node.spawner) == before
    node.api_back()
    wait_until("the late service", lambda: ask(node.pods["pod-2"], "10.96.2.1", 80).startswith("pod-3"), 20 * SLOWNESS)


def follows_the_node(node: ProgramNode, mode: Mode) -> None:
    """Another address of the Node: what depends on it is written anew, without a new start."""
    node.call(put(node.api, make_node_object("z1", ADDRESSES[1])))
    assert_like_fresh(node, mode, ADDRESSES[1])


# --- a transaction that the kernel refuses ---

BARRIERS = {
    "the table is gone": "delete table ip kube-proxy",
    "somebody else's chain uses ours": ("add chain ip kube-proxy theirs\nadd rule ip kube-proxy theirs jump cluster-9"),
    "a set of ours is of another type": (
        "delete table ip kube-proxy\nadd table ip kube-proxy\n"
        "add map ip kube-proxy service-ips { type mark : verdict; }\nadd set ip kube-proxy endpoints { type mark; }"
    ),
    "a chain of ours hangs in a hook": (
        "delete table ip kube-proxy\nadd table ip kube-proxy\n"
        "add chain ip kube-proxy services { type filter hook forward priority 0; }"
    ),
}


@pytest.mark.parametrize("how", BARRIERS)
def test_a_refused_transaction_ends_in_a_whole_rebuild(spawner: Spawner, how: str) -> None:
    """The period of checks is long where a partial sync finds out: the rebuild must follow from its failure."""
    found_by_sync = how in ("the table is gone", "somebody else's chain uses ours")
    mode = MODES["nftables"]
    with real_node(spawner, replace(mode.config, sync_period_s=30.0 if found_by_sync else 0.1)) as node:
        many = [make_endpoint(f"10.244.1.{number}") for number in range(20, 29)]  # whose chain goes with them
        node.put(make_service(ip=CLUSTER_IP), make_slice(many))
        spoil(node, BARRIERS[how])
        node.call(put(node.api, make_slice([make_endpoint(PODS["pod-3"])])))
        wait_until(
            "the new endpoint", lambda: ask(node.pods["pod-1"], CLUSTER_IP, 80).startswith("pod-3"), timeout_s=10
        )
        assert_like_fresh(node, mode)
        summary = node.proxy.summary()
        assert summary["failures"] >= 1
        assert summary["fullSyncs"] >= 2
        assert summary["errors"] == {}
