"""The four kinds of Kubernetes traffic as real packets: what left the client, what the server got, what came back.

Runs a three-node cluster, the guestbook (examples/guestbook.yaml) and a toolbox pod in it, sends one HTTP request of
each kind, traces the last kind from place to place, and takes everything down again. As root, or as an ordinary user
where the kernel allows user namespaces.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import netsim
from netsim.cluster.handle import Cluster
from netsim.model.errors import NetsimError
from netsim.observe.path import Hop
from netsim.observe.path import Path as Way
from netsim.testing.lookup import cluster_ip, node_ip, node_port, pod_ip, pod_node, ready_pods
from netsim.testing.packets import Packets, Seen
from netsim.testing.traffic import Traffic

EXAMPLES = Path(__file__).parent
CLIENT = "pod/toolbox"


@dataclass(frozen=True)
class Journey:
    """One request: from where, to what, and which places may serve it."""

    title: str
    note: str  # what to see in it
    client: str
    address: str
    port: int
    servers: tuple[str, ...]
    interface: str = "eth0"


def plan_journeys(cluster: Cluster) -> list[Journey]:
    """The four kinds of traffic in this cluster."""
    frontends = ready_pods(cluster, "app=guestbook,tier=frontend")
    elsewhere = next(pod for pod in frontends if pod_node(cluster, pod) != pod_node(cluster, "toolbox"))
    behind = tuple(f"pod/{pod}" for pod in frontends)
    return [
        Journey(
            "container to container, in one pod",
            "they share a network namespace: nothing leaves the pod",
            CLIENT,
            "127.0.0.1",
            8080,
            (CLIENT,),
            "lo",
        ),
        Journey(
            "pod to pod, on another node",
            "addresses are kept; two nodes route it, so TTL 64 becomes 62",
            CLIENT,
            pod_ip(cluster, elsewhere),
            80,
            (f"pod/{elsewhere}",),
        ),
        Journey(
            "pod to Service (ClusterIP)",
            "the node puts a pod in the Service's place, and undoes it in the answer",
            CLIENT,
            cluster_ip(cluster, "frontend"),
            80,
            behind,
        ),
        Journey(
            "outside to Service (NodePort)",
            "the node also puts itself in the client's place, so that the answer comes back through it",
            "host/external",
            node_ip(cluster, "node-1"),
            node_port(cluster, "frontend"),
            behind,
        ),
    ]


def travel(cluster: Cluster, journey: Journey) -> list[tuple[str, Seen]]:
    """Send the request; the first packet as client and server saw it, and the answer as it reached the client."""
    packets, traffic = Packets(cluster), Traffic(cluster)
    with ExitStack() as stack:
        at_client = stack.enter_context(packets.sniffer(journey.client, journey.interface))
        others = [where for where in journey.servers if where != journey.client]
        at_servers = [stack.enter_context(packets.sniffer(where, journey.interface)) for where in others]
        reply = traffic.http_get(journey.client, f"http://{journey.address}:{journey.port}/")
        port = reply.local[1]
        sent = at_client.first(lambda s: s.is_syn and s.direction == "out" and s.sport == port)
        answer = at_client.first(lambda s: s.is_syn_ack and s.direction == "in" and s.dport == port)
        # The server's side may have another source port: masquerading may change it.
        sniffers = at_servers or [at_client]
        arrived = [s for sniffer in sniffers for s in sniffer.seen(lambda s: s.is_syn and s.direction == "in")]
    return [("client sends", sent), ("server gets", arrived[0]), ("client gets", answer)]


def print_way(way: Way) -> None:
    """A trace, a line for each place: the interfaces it came and went by, and what the packet became there."""
    rows = [("", "AT", "IN", "OUT", "")]
    legs = set()
    for (leg, place), hops in groupby(way.hops, key=lambda hop: (hop.leg, hop.place)):
        stay = list(hops)
        came = [hop.interface for hop in stay if hop.direction == "in"]
        went = [hop.interface for hop in stay if hop.direction == "out"]
        changes = ", ".join(describe_rewrite(hop) for hop in stay if hop.rewrite)
        rows.append(("" if leg in legs else leg, place, "".join(came[:1]), "".join(went[-1:]), changes))
        legs.add(leg)
    print_table(rows)
    print(f"  {way.verdict.outcome} by {way.answered_by}, which saw the client as {way.seen_source}")


def describe_rewrite(hop: Hop) -> str:
    """Such as ``dnat to 10.244.0.4:80``."""
    if hop.rewrite in {"dnat", "un-snat"}:
        return f"{hop.rewrite} to {hop.packet.destination}:{hop.packet.destination_port}"
    return f"{hop.rewrite} from {hop.packet.source}:{hop.packet.source_port}"


def print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    started = time.monotonic()
    with netsim.up("demo", nodes=3) as cluster:
        ready = time.monotonic()
        print(f"three nodes are up ({ready - started:.2f} s)")
        cluster.apply(EXAMPLES / "guestbook.yaml")
        cluster.apply(EXAMPLES / "toolbox.yaml")
        pods = cluster.list("Pod", "default")
        print(f"the guestbook is deployed: {len(pods)} pods are ready ({time.monotonic() - ready:.2f} s)\n")
        print_table(
            [
                ("POD", "ADDRESS", "NODE"),
                *((p["metadata"]["name"], p["status"]["podIP"], p["spec"]["nodeName"]) for p in pods),
            ]
        )
        for journey in plan_journeys(cluster):
            print(f"\n{journey.title}: {journey.note}")
            rows = [("", "AT", "FROM", "TO", "TTL", "")]
            for what, seen in travel(cluster, journey):
                flags = "SYN" if seen.is_syn else "SYN, ACK"
                ends = f"{seen.src}:{seen.sport}", f"{seen.dst}:{seen.dport}"
                rows.append((what, seen.where, *ends, str(seen.ttl), flags))
            print_table(rows)
        print("\nthe whole way of such a packet and back (netsim trace shows it with every rule and route)")
        target = f"node/node-1:{node_port(cluster, 'frontend')}"
        print_way(cluster.trace("host/external", target))
    print(f"\neverything is gone again ({time.monotonic() - started:.1f} s in all)")


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except NetsimError as error:
        sys.exit(f"demo: {error}")
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
