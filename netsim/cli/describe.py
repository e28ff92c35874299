"""``describe``: one object, what belongs to it, and its events, for a person to read."""

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from netsim.cli.base import (
    NetsimCommand,
    State,
    complete_kinds,
    complete_names,
    namespace_option,
    pass_state,
    split_targets,
)
from netsim.cli.describe_parts import age, events_text, field_lines, join_map, sub_table, text_lines
from netsim.model.kinds import Kind, find_kind
from netsim.model.objects import Object

if TYPE_CHECKING:
    from netsim.cluster.handle import Cluster

SERVICE_NAME_LABEL = "kubernetes.io/service-name"


@click.command(
    cls=NetsimCommand,
    examples="""
  netsim describe pod web-0
  netsim describe service/web -n shop
  netsim describe node node-1
""",
)
@click.argument("kind", shell_complete=complete_kinds)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_names)
@namespace_option
@pass_state
def describe(state: State, kind: str, names: tuple[str, ...], namespace: str) -> None:
    """Show one object with what belongs to it: a Service's endpoints, a node's pods, and the events."""
    targets = split_targets(kind, names, "describe")
    cluster = state.attach()
    for index, (word, name) in enumerate(targets):
        if index:
            click.echo("\n")
        obj = cluster.get(word, name, namespace)
        click.echo(describe_object(cluster, find_kind(word), obj))


def describe_object(cluster: "Cluster", kind: Kind, obj: Object) -> str:
    """The text for one object."""
    details = _DETAILS.get(kind.kind, _describe_other)
    return "\n".join([*_head(kind, obj), *details(cluster, obj), *_events(cluster, kind, obj)])


def _head(kind: Kind, obj: Object) -> list[str]:
    metadata = obj["metadata"]
    owners = [f"{owner['kind']}/{owner['name']}" for owner in metadata.get("ownerReferences") or ()]
    annotations = {
        key: value for key, value in (metadata.get("annotations") or {}).items() if "last-applied" not in key
    }
    return field_lines(
        [
            ("Name", metadata["name"]),
            *([("Namespace", metadata.get("namespace", ""))] if kind.namespaced else []),
            ("Labels", join_map(metadata.get("labels"))),
            ("Annotations", join_map(annotations)),
            ("Created", f"{metadata.get('creationTimestamp', '')} ({age(metadata.get('creationTimestamp'))} ago)"),
            *([("Deleting since", metadata["deletionTimestamp"])] if metadata.get("deletionTimestamp") else []),
            *([("Controlled by", ", ".join(owners))] if owners else []),
        ]
    )


def _describe_pod(_cluster: "Cluster", pod: Object) -> list[str]:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    lines = field_lines(
        [
            ("Node", f"{spec.get('nodeName') or '<none>'}{_in_brackets(status.get('hostIP'))}"),
            ("Status", status.get("phase", "Unknown") + _in_brackets(status.get("reason"))),
            ("Message", status.get("message", "")),
            ("IPs", ", ".join(ip["ip"] for ip in status.get("podIPs") or ()) or status.get("podIP") or "<none>"),
        ]
    )
    states = {s["name"]: s for s in status.get("containerStatuses") or ()}
    lines.append("Containers:")
    for container in spec.get("containers") or ():
        lines += _container(container, states.get(container["name"]) or {})
    lines += _conditions(status)
    return lines


def _container(container: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    ports = [
        f"{port.get('containerPort')}/{port.get('protocol', 'TCP')}" + _in_brackets(port.get("name"))
        for port in container.get("ports") or ()
    ]
    command = [*(container.get("command") or ()), *(container.get("args") or ())]
    current = state.get("state") or {}
    word = next(iter(current), "")
    detail = current.get(word) or {}
    said = ", ".join(str(detail[key]) for key in ("reason", "message") if detail.get(key))
    if "exitCode" in detail:
        said = f"{said}, exit code {detail['exitCode']}".removeprefix(", ")
    environment = {e["name"]: e.get("value", "<from elsewhere>") for e in container.get("env") or ()}
    fields = [
        ("Image", container.get("image", "")),
        ("Runs as", state.get("imageID", "")),
        ("Command", " ".join(command)),
        ("Ports", ", ".join(ports)),
        ("State", word.capitalize() + _in_brackets(said)),
        ("Ready", str(bool(state.get("ready")))),
        ("Restarts", str(state.get("restartCount", 0))),
        ("Environment", join_map(environment)),
    ]
    return [f"  {container['name']}:", *field_lines(fields, indent=4)]


def _describe_service(cluster: "Cluster", service: Object) -> list[str]:
    spec = service.get("spec") or {}
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    ips = spec.get("clusterIPs") or [spec.get("clusterIP")]
    lines = field_lines(
        [
            ("Type", spec.get("type", "ClusterIP")),
            ("IPs", ", ".join(str(ip) for ip in ips if ip) or "<none>"),
            ("External name", spec.get("externalName", "")),
            ("External IPs", ", ".join(spec.get("externalIPs") or ())),
            ("Load balancer", ", ".join(str(i.get("ip") or i.get("hostname")) for i in ingress)),
            ("Selector", join_map(spec.get("selector"))),
            ("Affinity", spec.get("sessionAffinity", "None")),
            ("External policy", spec.get("externalTrafficPolicy", "")),
            ("Internal policy", spec.get("internalTrafficPolicy", "")),
        ]
    )
    rows = [
        [
            str(port.get("name") or "<unnamed>"),
            f"{port['port']}/{port.get('protocol', 'TCP')}",
            str(port.get("targetPort", port["port"])),
            str(port.get("nodePort") or "<none>"),
        ]
        for port in spec.get("ports") or ()
    ]
    lines += sub_table("Ports", ("NAME", "PORT", "TARGET", "NODE-PORT"), rows)
    lines += sub_table("Endpoints", ("ADDRESS", "PORTS", "STATE", "NODE", "POD"), _endpoint_rows(cluster, service))
    return lines


def _endpoint_rows(cluster: "Cluster", service: Object) -> list[list[str]]:
    metadata = service["metadata"]
    slices = cluster.list("endpointslices", metadata["namespace"], labels=f"{SERVICE_NAME_LABEL}={metadata['name']}")
    rows = []
    for endpoint_slice in slices:
        ports = ",".join(f"{p.get('port')}/{p.get('protocol', 'TCP')}" for p in endpoint_slice.get("ports") or ())
        for endpoint in endpoint_slice.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            words = ["ready" if conditions.get("ready") is not False else "not ready"]
            words += ["terminating"] if conditions.get("terminating") else []
            for address in endpoint.get("addresses") or ():
                target = (endpoint.get("targetRef") or {}).get("name") or "<none>"
                rows.append([address, ports, ", ".join(words), endpoint.get("nodeName") or "<none>", target])
    return sorted(rows)


def _describe_node(cluster: "Cluster", node: Object) -> list[str]:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    info = status.get("nodeInfo") or {}
    addresses = [f"{a['address']} ({a['type']})" for a in status.get("addresses") or ()]
    taints = [f"{t['key']}={t.get('value', '')}:{t['effect']}" for t in spec.get("taints") or ()]
    lines = field_lines(
        [
            ("Addresses", ", ".join(addresses)),
            ("Pod CIDRs", ", ".join(spec.get("podCIDRs") or [spec.get("podCIDR", "")])),
            ("Taints", ", ".join(taints) or "<none>"),
            ("Unschedulable", str(bool(spec.get("unschedulable")))),
            ("Capacity", join_map(status.get("capacity"))),
            ("Kernel", info.get("kernelVersion", "")),
        ]
    )
    lines += _conditions(status)
    pods = [p for p in cluster.list("pods") if (p.get("spec") or {}).get("nodeName") == node["metadata"]["name"]]
    rows = [
        [
            pod["metadata"]["namespace"],
            pod["metadata"]["name"],
            (pod.get("status") or {}).get("phase", ""),
            (pod.get("status") or {}).get("podIP") or "<none>",
        ]
        for pod in pods
    ]
    return lines + sub_table(f"Pods ({len(rows)})", ("NAMESPACE", "NAME", "STATUS", "IP"), sorted(rows))


def _describe_deployment(cluster: "Cluster", deployment: Object) -> list[str]:
    spec, status = deployment.get("spec") or {}, deployment.get("status") or {}
    strategy = spec.get("strategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    lines = field_lines(
        [
            ("Selector", join_map((spec.get("selector") or {}).get("matchLabels"))),
            ("Replicas", _replica_words(spec, status)),
            ("Strategy", strategy.get("type", "") + _in_brackets(join_map(rolling) if rolling else "")),
        ]
    )
    lines += _template(spec)
    lines += _conditions(status)
    uid = deployment["metadata"]["uid"]
    sets = [s for s in cluster.list("replicasets", deployment["metadata"]["namespace"]) if _owned_by(s, uid)]
    rows = [_replica_row(s) for s in sets]
    return lines + sub_table("ReplicaSets", ("NAME", "DESIRED", "CURRENT", "READY"), sorted(rows))


def _describe_replica_set(cluster: "Cluster", replica_set: Object) -> list[str]:
    spec, status = replica_set.get("spec") or {}, replica_set.get("status") or {}
    lines = field_lines(
        [
            ("Selector", join_map((spec.get("selector") or {}).get("matchLabels"))),
            ("Replicas", _replica_words(spec, status)),
        ]
    )
    uid = replica_set["metadata"]["uid"]
    pods = [p for p in cluster.list("pods", replica_set["metadata"]["namespace"]) if _owned_by(p, uid)]
    rows = [
        [
            p["metadata"]["name"],
            (p.get("status") or {}).get("phase", ""),
            (p.get("spec") or {}).get("nodeName") or "<none>",
        ]
        for p in pods
    ]
    return lines + _template(spec) + sub_table("Pods", ("NAME", "STATUS", "NODE"), sorted(rows))


def _replica_words(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    counts = [("updated", "updatedReplicas"), ("ready", "readyReplicas"), ("available", "availableReplicas")]
    words = [f"{spec.get('replicas', 1)} desired", f"{status.get('replicas', 0)} there"]
    words += [f"{status.get(key, 0)} {word}" for word, key in counts if key in status]
    return ", ".join(words)


def _replica_row(replica_set: Object) -> list[str]:
    spec, status = replica_set.get("spec") or {}, replica_set.get("status") or {}
    counts = (spec.get("replicas", 1), status.get("replicas", 0), status.get("readyReplicas", 0))
    return [replica_set["metadata"]["name"], *(str(count) for count in counts)]


def _template(spec: Mapping[str, Any]) -> list[str]:
    lines = ["Pod template:"]
    for container in ((spec.get("template") or {}).get("spec") or {}).get("containers") or ():
        lines += [f"  {container['name']}: {container.get('image', '')}"]
    return lines


def _describe_config_map(_cluster: "Cluster", config_map: Object) -> list[str]:
    lines = field_lines([("Immutable", "True" if config_map.get("immutable") else "")])
    data, binary = config_map.get("data") or {}, config_map.get("binaryData") or {}
    lines += ["Data:"] if data or binary else field_lines([("Data", "<none>")])
    for key, value in data.items():
        lines += text_lines(key, value, indent=2)
    for key, value in binary.items():
        lines += field_lines([(key, f"{len(b64decode(value))} bytes")], indent=2)
    return lines


def _describe_other(_cluster: "Cluster", obj: Object) -> list[str]:
    """Kinds without a page of their own: all but the metadata, as YAML."""
    import yaml  # only needed here

    rest = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
    return yaml.safe_dump(rest, default_flow_style=False, allow_unicode=True).rstrip().splitlines() if rest else []


def _conditions(status: Mapping[str, Any]) -> list[str]:
    rows = [
        [c.get("type", ""), c.get("status", ""), c.get("reason") or "", c.get("message") or ""]
        for c in status.get("conditions") or ()
    ]
    return sub_table("Conditions", ("TYPE", "STATUS", "REASON", "MESSAGE"), rows)


def _events(cluster: "Cluster", kind: Kind, obj: Object) -> list[str]:
    metadata = obj["metadata"]
    namespace = metadata.get("namespace") if kind.namespaced else None
    events = [
        event
        for event in cluster.list("events", namespace)
        if (event.get("involvedObject") or {}).get("kind") == kind.kind
        and (event.get("involvedObject") or {}).get("name") == metadata["name"]
        and (event["involvedObject"].get("uid") or metadata["uid"]) in (metadata["uid"], metadata["name"])
    ]
    return events_text(events)


def _owned_by(obj: Object, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences") or ())


def _in_brackets(text: Any) -> str:
    return f" ({text})" if text else ""


_DETAILS: dict[str, Callable[["Cluster", Object], Sequence[str]]] = {
    "Pod": _describe_pod,
    "Service": _describe_service,
    "Node": _describe_node,
    "ConfigMap": _describe_config_map,
    "Deployment": _describe_deployment,
    "ReplicaSet": _describe_replica_set,
}
