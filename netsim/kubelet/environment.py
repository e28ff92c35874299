"""The environment of a container, as upstream's kubelet makes it. Pure.

Source: kubernetes pkg/kubelet/kubelet_pods.go makeEnvironmentVariables, third_party/forked/golang/expansion/expand.go.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from netsim.model.errors import NetsimError

ConfigMaps = Callable[[str], Mapping[str, Any] | None]  # by name, in the pod's own namespace


class ConfigError(NetsimError):
    """The container's configuration names something that is not there: ``CreateContainerConfigError``."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the downward API can say that is not in the pod object yet."""

    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    config_maps: ConfigMaps = field(default=lambda name: None)
    service_variables: Mapping[str, str] = field(default_factory=dict)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``$(NAME)`` replaced where NAME is known, ``$$`` is ``$``, anything else stays as it is."""
    if "$" not in text:
        return text
    result: list[str] = []
    position = 0
    while position < len(text):
        character = text[position]
        following = text[position + 1 : position + 2]
        if character == "$" and following == "$":
            result.append("$")
            position += 2
        elif character == "$" and following == "(":
            end = text.find(")", position + 2)
            if end < 0:
                result.append("$(")
                position += 2
                continue
            name = text[position + 2 : end]
            result.append(variables.get(name, f"$({name})"))
            position = end + 1
        else:
            result.append(character)
            position += 1
    return "".join(result)


def plan_environment(pod: Mapping[str, Any], container: Mapping[str, Any], facts: PodFacts) -> dict[str, str]:
    """All variables of ``container``: of Services, then ``envFrom``, then ``env``, later ones winning.

    Raises ConfigError for a missing ConfigMap or key that is not optional.
    """
    variables = dict(facts.service_variables)
    for source in container.get("envFrom") or ():
        variables.update(_read_source(source, facts))
    own: dict[str, str] = {}
    for variable in container.get("env") or ():
        name = variable["name"]
        if "valueFrom" in variable:
            value = _read_value_from(pod, container, variable["valueFrom"], facts)
            if value is None:
                continue
        else:
            value = expand(str(variable.get("value") or ""), {**variables, **own})
        own[name] = value
    variables.update(own)
    return variables


def _read_source(source: Mapping[str, Any], facts: PodFacts) -> dict[str, str]:
    prefix = source.get("prefix") or ""
    reference = source.get("configMapRef")
    if reference is None:
        if (source.get("secretRef") or {}).get("optional"):
            return {}
        raise ConfigError("envFrom: only configMapRef is supported; Secrets are not a kind netsim knows")
    config_map = facts.config_maps(reference.get("name", ""))
    if config_map is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'configmap "{reference.get("name")}" not found')
    return {prefix + key: str(value) for key, value in (config_map.get("data") or {}).items()}


def _read_value_from(
    pod: Mapping[str, Any], container: Mapping[str, Any], source: Mapping[str, Any], facts: PodFacts
) -> str | None:
    if reference := source.get("fieldRef"):
        return read_field(pod, reference.get("fieldPath", ""), facts)
    if reference := source.get("configMapKeyRef"):
        config_map = facts.config_maps(reference.get("name", ""))
        if config_map is None:
            if reference.get("optional"):
                return None
            raise ConfigError(f'configmap "{reference.get("name")}" not found')
        value = (config_map.get("data") or {}).get(reference.get("key"))
        if value is None and not reference.get("optional"):
            raise ConfigError(f"couldn't find key {reference.get('key')} in ConfigMap {reference.get('name')}")
        return None if value is None else str(value)
    if reference := source.get("resourceFieldRef"):
        return _read_resource(container, reference)
    if (source.get("secretKeyRef") or {}).get("optional"):
        return None
    raise ConfigError(
        f"valueFrom: {', '.join(source) or 'empty'} is not supported",
        hint="use fieldRef, resourceFieldRef or configMapKeyRef",
    )


def _read_resource(container: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    section, _, resource = str(reference.get("resource", "")).partition(".")
    resources = container.get("resources") or {}
    return str((resources.get(section) or {}).get(resource, "0"))


def read_field(pod: Mapping[str, Any], path: str, facts: PodFacts) -> str:
    """A downward API field: ``status.podIP``, ``metadata.labels['app']``, ... Raises ConfigError for an unknown one."""
    metadata = pod["metadata"]
    spec = pod.get("spec") or {}
    simple: dict[str, Any] = {
        "metadata.name": metadata.get("name"),
        "metadata.namespace": metadata.get("namespace"),
        "metadata.uid": metadata.get("uid"),
        "spec.nodeName": spec.get("nodeName"),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": facts.pod_ips[0] if facts.pod_ips else "",
        "status.podIPs": ",".join(facts.pod_ips),
        "status.hostIP": facts.host_ips[0] if facts.host_ips else "",
        "status.hostIPs": ",".join(facts.host_ips),
    }
    if path in simple:
        return str(simple[path] or "")
    if path in ("metadata.labels", "metadata.annotations"):
        return _render_map(metadata.get(path.partition(".")[2]) or {})
    for name in ("labels", "annotations"):
        head = f"metadata.{name}["
        if path.startswith(head) and path.endswith("]"):
            return str((metadata.get(name) or {}).get(path[len(head) : -1].strip("'\""), ""))
    raise ConfigError(f'fieldRef: unsupported fieldPath "{path}"')


def _render_map(values: Mapping[str, str]) -> str:
    return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))


def plan_service_variables(
    services: Iterable[Mapping[str, Any]], api_service: Mapping[str, Any] | None, links: bool
) -> dict[str, str]:
    """``WEB_SERVICE_HOST`` and kin for the Services of the pod's namespace and for default/kubernetes.

    Source: kubernetes pkg/kubelet/envvars/envvars.go FromServices. ``links`` is ``spec.enableServiceLinks``.
    """
    variables: dict[str, str] = {}
    wanted = [*(services if links else ()), *([api_service] if api_service else ())]
    for service in wanted:
        spec = service.get("spec") or {}
        address = spec.get("clusterIP") or ""
        ports = spec.get("ports") or ()
        if not ports or address in ("", "None") or spec.get("type") == "ExternalName":
            continue
        prefix = _variable_name(service["metadata"]["name"])
        variables[f"{prefix}_SERVICE_HOST"] = address
        variables[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
        for index, port in enumerate(ports):
            if port.get("name"):
                variables[f"{prefix}_SERVICE_PORT_{_variable_name(port['name'])}"] = str(port["port"])
            _add_docker_links(variables, prefix, address, port, first=index == 0)
    return variables


def _add_docker_links(
    variables: dict[str, str], prefix: str, address: str, port: Mapping[str, Any], *, first: bool
) -> None:
    protocol = str(port.get("protocol", "TCP"))
    host = f"[{address}]" if ":" in address else address
    url = f"{protocol.lower()}://{host}:{port['port']}"
    if first:
        variables[f"{prefix}_PORT"] = url
    head = f"{prefix}_PORT_{port['port']}_{protocol}"
    variables[head] = url
    variables[f"{head}_PROTO"] = protocol.lower()
    variables[f"{head}_PORT"] = str(port["port"])
    variables[f"{head}_ADDR"] = address


def _variable_name(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")
