"""The steps with figures: loads, first packets, updates of rules. They act through the Cluster handle."""

import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from netsim.client.api import check_response
from netsim.cluster.handle import Cluster
from netsim.experiment.facts import describe_latencies
from netsim.experiment.kinds import GENERATED
from netsim.model.errors import NetsimError
from netsim.model.target import parse_target

GENERATED_LABEL = "netsim.dev/generated"
MOST_TARGETS = 100  # of the generated Services that are measured, evenly spread over all of them
_TIMEOUT_S = 5.0
_MARK_SERVICE = "netsim-rule-update"
_MARK_PORT = 9
# Where the rule update's endpoint goes to and fro. Nobody is there, and nobody asks (RFC 5737, RFC 3849).
_MARK_ADDRESSES = {"IPv4": ("192.0.2.1", "192.0.2.2"), "IPv6": ("2001:db8::1", "2001:db8::2")}

Addresses = list[tuple[str, int]]


def list_targets(cluster: Cluster, target: str, protocol: str | None = None) -> Addresses:
    """Address and port of a target; of the generated Services those of at most `MOST_TARGETS`, the last one too."""
    if target != GENERATED:
        return [find_address(cluster, target, protocol)]
    services = cluster.list("Service", "default", labels=GENERATED_LABEL)
    if not services:
        raise NetsimError("there are no generated Services", hint='a step "services" makes them; it comes first')
    names = sorted(services, key=lambda one: one["metadata"]["name"])
    most = min(MOST_TARGETS, len(names))
    chosen = [names[(at + 1) * len(names) // most - 1] for at in range(most)]
    return [(one["spec"]["clusterIP"], one["spec"]["ports"][0]["port"]) for one in chosen]


def find_address(cluster: Cluster, text: str, protocol: str | None) -> tuple[str, int]:
    """Address and port of one target. Raises NetsimError."""
    target = parse_target(text)
    asked = cluster.explain("host/external", str(target), protocol=protocol)  # type: ignore[arg-type] # checked
    return asked.question.address, asked.question.port


def run_program(
    cluster: Cluster, place: str, targets: Addresses, *, mode: str, count: int, parallel: int, timeout_s: float
) -> dict[str, Any]:
    """Connections from a place, by a process that lives there. Raises NetsimError when it can't run."""
    plan = {"targets": targets, "count": count, "parallel": parallel, "mode": mode, "timeout_s": timeout_s}
    source = files("netsim.experiment").joinpath("load_program.py").read_text(encoding="utf-8")
    # Not a virtual environment's link to it: that may be below /tmp, and a pod has a /tmp of its own.
    argv = [os.path.realpath(sys.executable), "-I", "-S", "-c", source, json.dumps(plan)]
    limit_s = 30 + count * timeout_s / parallel
    done = cluster.exec(place, argv, timeout_s=limit_s, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def measure_load(cluster: Cluster, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Many connections at once."""
    protocol = arguments.get("protocol", "http")
    targets = list_targets(cluster, arguments["to"], "udp" if protocol == "udp" else None)
    answer = run_program(
        cluster,
        arguments["from"],
        targets,
        mode={"tcp": "connect"}.get(protocol, protocol),
        count=arguments["connections"],
        parallel=min(arguments.get("parallel", 8), arguments["connections"]),
        timeout_s=arguments.get("timeout", _TIMEOUT_S),
    )
    facts = describe_latencies(answer["samplesMs"], answer["errors"])
    facts["rate"] = round(len(answer["samplesMs"]) / answer["elapsedS"], 1)
    facts["errorPercent"] = round(100 * facts["errors"] / arguments["connections"], 2)
    return facts, _tell_errors(answer["errors"])


def measure_first_packet(cluster: Cluster, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """How long a connection takes to be established: its first packet goes through all the rules, later ones do not."""
    answer = run_program(
        cluster,
        arguments["from"],
        list_targets(cluster, arguments["to"]),
        mode="connect",
        count=arguments.get("count", 200),
        parallel=1,
        timeout_s=arguments.get("timeout", _TIMEOUT_S),
    )
    return describe_latencies(answer["samplesMs"], answer["errors"]), _tell_errors(answer["errors"])


def measure_rule_update(cluster: Cluster, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """From a change of one Service's endpoint in the API until every node's kernel has it, as the barrier says.

    The barrier's own time, with nothing to wait for, is told beside it and is not taken off.
    """
    kind = "IPv6" if str(cluster.status().get("ipFamily")) == "ipv6" else "IPv4"
    addresses = _MARK_ADDRESSES[kind]
    cluster.apply([_mark_service(), _mark_slice(kind, addresses[0])])
    samples = []
    for turn in range(arguments.get("count", 11)):
        change = {"endpoints": _mark_slice(kind, addresses[1 - turn % 2])["endpoints"]}
        started = time.perf_counter()
        cluster.patch("EndpointSlice", _MARK_SERVICE, change)
        cluster.barrier(timeout_s=120)
        samples.append((time.perf_counter() - started) * 1000)
    floor_ms = statistics.median(_time_ms(cluster.barrier) for _ in range(5))
    return describe_latencies(samples, {}), (f"of which the barrier with nothing to wait for: {floor_ms:.1f} ms",)


def measure_sync(cluster: Cluster) -> tuple[dict[str, Any], tuple[str, ...]]:
    """How long every node takes to make all its rules, starting with none: another mode, and back."""
    mode = str(cluster.status()["proxyMode"])
    cluster.set_proxy_mode("nftables" if mode != "nftables" else "iptables")
    took_ms = _time_ms(lambda: cluster.set_proxy_mode(mode))
    return {"ms": round(took_ms, 3)}, ()


def make_services(cluster: Cluster, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """So many Services more, all of the same selector, and their rules. Those that are there already count."""
    port, name = arguments.get("port", 80), arguments.get("name", "generated")
    selector = arguments.get("selector") or {"app": "web"}
    timeout_s = arguments.get("timeout", 300)
    objects = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"{name}-{number:06}", "labels": {GENERATED_LABEL: "true"}},
            "spec": {"selector": selector, "ports": [{"port": port}]},
        }
        for number in range(1, arguments["count"] + 1)
    ]
    started = time.perf_counter()
    for service in objects:  # plain POSTs: apply would ask for each of them first
        answer = cluster.request("POST", "/api/v1/namespaces/default/services", body=service)
        if answer.status != HTTPStatus.CONFLICT:
            check_response(answer)
    cluster.barrier(timeout_s=timeout_s)
    return {"ms": round((time.perf_counter() - started) * 1000, 1), "count": arguments["count"]}


def _time_ms(act: Any) -> float:
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1000


def _tell_errors(errors: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"{number} of the connections: {words}" for words, number in errors.items())


def _mark_service() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _MARK_SERVICE},
        "spec": {"ports": [{"port": _MARK_PORT}]},
    }


def _mark_slice(kind: str, address: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": _MARK_SERVICE, "labels": {"kubernetes.io/service-name": _MARK_SERVICE}},
        "addressType": kind,
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "", "port": _MARK_PORT, "protocol": "TCP"}],
    }
