"""Validation of pods and pod templates, as far as netsim acts on what they say.

Source: kubernetes ``pkg/apis/core/validation/validation.go`` (ValidatePodSpec, ValidatePodUpdate).
"""

import re
from ipaddress import ip_address
from typing import Any

from netsim.apiserver.causes import Causes
from netsim.apiserver.names import check_labels, dns_label, dns_subdomain, port_name

Object = dict[str, Any]

_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_ENV_NAME = re.compile(r"[ -<>-~]+")
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(([eE][+-]?\d+)|[numkMGTPE]|[KMGTPE]i)?")
_MAX_INT32 = 2**31 - 1
_PORT = "must be between 1 and 65535, inclusive"
_NOT_NEGATIVE = "must be greater than or equal to 0"


def validate_pod_spec(spec: Object, path: str, causes: Causes, *, template: bool = False) -> None:
    """Check a PodSpec that has its defaults. template: of a Deployment or ReplicaSet, which restart always."""
    volumes = _check_volumes(spec.get("volumes") or (), f"{path}.volumes", causes)
    names: set[str] = set()
    if not spec.get("containers"):
        causes.required(f"{path}.containers")
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or ()):
            _check_container(container, f"{path}.{field}[{index}]", volumes, names, causes)
    _check_host_ports(spec, path, causes)
    _check_policies(spec, path, causes, template=template)
    grace = spec["terminationGracePeriodSeconds"]
    if grace < 0:
        causes.invalid(f"{path}.terminationGracePeriodSeconds", grace, _NOT_NEGATIVE)
    if spec.get("nodeSelector"):
        check_labels(spec["nodeSelector"], f"{path}.nodeSelector", causes)
    for field, check in (("hostname", dns_label), ("subdomain", dns_label), ("nodeName", dns_subdomain)):
        value = spec.get(field)
        if value and (bad := check(value)):
            causes.invalid(f"{path}.{field}", value, bad)
    _check_dns(spec, path, causes)
    if spec.get("tolerations"):
        _check_tolerations(spec["tolerations"], f"{path}.tolerations", causes)


def _check_policies(spec: Object, path: str, causes: Causes, *, template: bool) -> None:
    restart = spec["restartPolicy"]
    allowed = ("Always",) if template else _RESTART_POLICIES
    if restart not in allowed:
        causes.not_supported(f"{path}.restartPolicy", restart, allowed)
    if spec["dnsPolicy"] not in _DNS_POLICIES:
        causes.not_supported(f"{path}.dnsPolicy", spec["dnsPolicy"], _DNS_POLICIES)


def _check_dns(spec: Object, path: str, causes: Causes) -> None:
    config = spec.get("dnsConfig") or {}
    servers = config.get("nameservers") or ()
    if spec["dnsPolicy"] == "None" and not servers:
        causes.required(
            f"{path}.dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None"
        )
    if len(servers) > 3:
        causes.invalid(f"{path}.dnsConfig.nameservers", list(servers), "must not have more than 3 nameservers")
    for index, server in enumerate(servers):
        check_ip(server, f"{path}.dnsConfig.nameservers[{index}]", causes)
    if len(config.get("searches") or ()) > 32:
        causes.invalid(f"{path}.dnsConfig.searches", config["searches"], "must not have more than 32 search paths")
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        check_ip(alias.get("ip", ""), f"{path}.hostAliases[{index}].ip", causes)
        for name in alias.get("hostnames") or ():
            if bad := dns_subdomain(name):
                causes.invalid(f"{path}.hostAliases[{index}].hostnames", name, bad)


def check_ip(text: str, path: str, causes: Causes) -> None:
    """An address in upstream's words."""
    try:
        ip_address(text)
    except ValueError:
        causes.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")


def _check_volumes(volumes: Any, path: str, causes: Causes) -> set[str]:
    names: set[str] = set()
    for index, volume in enumerate(volumes):
        name = volume.get("name", "")
        if not name:
            causes.required(f"{path}[{index}].name")
        elif bad := dns_label(name):
            causes.invalid(f"{path}[{index}].name", name, bad)
        if name in names:
            causes.duplicate(f"{path}[{index}].name", name)
        names.add(name)
        if len(volume) > 2:
            causes.forbidden(f"{path}[{index}]", "may not specify more than 1 volume type")
    return names


def _check_container(container: Object, path: str, volumes: set[str], names: set[str], causes: Causes) -> None:
    name = container.get("name", "")
    if not name:
        causes.required(f"{path}.name")
    elif bad := dns_label(name):
        causes.invalid(f"{path}.name", name, bad)
    elif name in names:
        causes.duplicate(f"{path}.name", name)
    names.add(name)
    image = container.get("image", "")
    if not image:
        causes.required(f"{path}.image")
    elif image != image.strip():
        causes.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    if container["imagePullPolicy"] not in _PULL_POLICIES:
        causes.not_supported(f"{path}.imagePullPolicy", container["imagePullPolicy"], _PULL_POLICIES)
    if container.get("ports"):
        _check_ports(container["ports"], f"{path}.ports", causes)
    if container.get("env"):
        _check_env(container["env"], f"{path}.env", causes)
    if container.get("volumeMounts"):
        _check_mounts(container["volumeMounts"], f"{path}.volumeMounts", volumes, causes)
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        if field in container:
            _check_probe(container[field], f"{path}.{field}", causes, ready=field == "readinessProbe")
    if container["resources"]:
        _check_resources(container["resources"], f"{path}.resources", causes)


def _check_ports(ports: Any, path: str, causes: Causes) -> None:
    names: set[str] = set()
    for index, port in enumerate(ports):
        here = f"{path}[{index}]"
        name = port.get("name", "")
        if name:
            for bad in port_name(name):
                causes.invalid(f"{here}.name", name, bad)
            if name in names:
                causes.duplicate(f"{here}.name", name)
            names.add(name)
        number = port.get("containerPort", 0)
        if number == 0:
            causes.required(f"{here}.containerPort")
        elif not 1 <= number <= 65535:
            causes.invalid(f"{here}.containerPort", number, _PORT)
        host_port = port.get("hostPort", 0)
        if host_port and not 1 <= host_port <= 65535:
            causes.invalid(f"{here}.hostPort", host_port, _PORT)
        if port["protocol"] not in _PROTOCOLS:
            causes.not_supported(f"{here}.protocol", port["protocol"], _PROTOCOLS)


def _check_host_ports(spec: Object, path: str, causes: Causes) -> None:
    seen: set[tuple[str, str, int]] = set()
    for index, container in enumerate(spec.get("containers") or ()):
        for at, port in enumerate(container.get("ports") or ()):
            host_port = port.get("hostPort", 0)
            here = f"{path}.containers[{index}].ports[{at}].hostPort"
            if not host_port:
                continue
            if spec.get("hostNetwork") and host_port != port.get("containerPort"):
                causes.invalid(
                    here.removesuffix("hostPort") + "containerPort",
                    port.get("containerPort"),
                    "must match `hostPort` when `hostNetwork` is true",
                )
            key = (port["protocol"], port.get("hostIP", ""), host_port)
            if key in seen:
                causes.duplicate(here, f"{key[0]}/{key[1]}/{key[2]}")
            seen.add(key)


def _check_env(variables: Any, path: str, causes: Causes) -> None:
    for index, variable in enumerate(variables):
        name = variable.get("name", "")
        if not name:
            causes.required(f"{path}[{index}].name")
        elif not _ENV_NAME.fullmatch(name):
            causes.invalid(
                f"{path}[{index}].name",
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            )
        if variable.get("value") and variable.get("valueFrom"):
            causes.invalid(f"{path}[{index}].valueFrom", "", "may not be specified when `value` is not empty")
        elif "valueFrom" in variable and len(variable["valueFrom"]) != 1:
            detail = (
                "may not have more than one field specified at a time"
                if variable["valueFrom"]
                else ("must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`")
            )
            causes.invalid(f"{path}[{index}].valueFrom", "", detail)


def _check_mounts(mounts: Any, path: str, volumes: set[str], causes: Causes) -> None:
    seen: set[str] = set()
    for index, mount in enumerate(mounts):
        name, target = mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            causes.required(f"{path}[{index}].name")
        elif name not in volumes:
            causes.not_found(f"{path}[{index}].name", name)
        if not target:
            causes.required(f"{path}[{index}].mountPath")
        elif target in seen:
            causes.invalid(f"{path}[{index}].mountPath", target, "must be unique")
        seen.add(target)


def _check_probe(probe: Object, path: str, causes: Causes, *, ready: bool) -> None:
    handlers = [name for name in _HANDLERS if name in probe]
    if not handlers:
        causes.required(path, "must specify a handler type")
    for name in handlers[1:]:
        causes.forbidden(f"{path}.{name}", "may not specify more than 1 handler type")
    for name in ("httpGet", "tcpSocket"):
        if name in probe:
            _check_target_port(probe[name].get("port"), f"{path}.{name}.port", causes)
    if "exec" in probe and not probe["exec"].get("command"):
        causes.required(f"{path}.exec.command")
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        value = probe.get(field, 0)
        if value < 0:
            causes.invalid(f"{path}.{field}", value, _NOT_NEGATIVE)
    if not ready and probe.get("successThreshold", 1) != 1:
        causes.invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _check_target_port(port: Any, path: str, causes: Causes) -> None:
    if port is None:
        causes.required(path)
    elif isinstance(port, int):
        if not 1 <= port <= 65535:
            causes.invalid(path, port, _PORT)
    else:
        for bad in port_name(port):
            causes.invalid(path, port, bad)


def _check_resources(resources: Object, path: str, causes: Causes) -> None:
    for field in ("limits", "requests"):
        for name, quantity in (resources.get(field) or {}).items():
            if not _QUANTITY.fullmatch(str(quantity)):
                causes.invalid(
                    f"{path}.{field}[{name}]",
                    quantity,
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                )
            elif str(quantity).startswith("-"):
                causes.invalid(f"{path}.{field}[{name}]", quantity, _NOT_NEGATIVE)


def _check_tolerations(tolerations: Any, path: str, causes: Causes) -> None:
    for index, toleration in enumerate(tolerations):
        operator, here = toleration.get("operator", "Equal"), f"{path}[{index}]"
        if operator not in ("Equal", "Exists", ""):
            causes.not_supported(f"{here}.operator", operator, ("Equal", "Exists"))
        if operator == "Exists" and toleration.get("value"):
            causes.invalid(f"{here}.operator", toleration["value"], "value must be empty when `operator` is 'Exists'")
        if not toleration.get("key") and operator != "Exists":
            causes.invalid(
                f"{here}.operator",
                operator,
                'operator must be Exists when `key` is empty, which means "match all values and all keys"',
            )
        if toleration.get("effect", "") not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
            causes.not_supported(
                f"{here}.effect", toleration["effect"], ("NoSchedule", "PreferNoSchedule", "NoExecute")
            )


_IMMUTABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def validate_pod_spec_update(new: Object, old: Object, causes: Causes) -> None:
    """What an update of a pod may change in its spec."""
    if new == old:
        return
    for field in ("containers", "initContainers"):
        if len(new.get(field) or ()) != len(old.get(field) or ()):
            causes.forbidden(f"spec.{field}", "pod updates may not add or remove containers")
            return
    had, has = old.get("tolerations") or [], new.get("tolerations") or []
    if any(toleration not in has for toleration in had):
        causes.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
        return
    if _without_mutable(new) != _without_mutable(old):
        changed = sorted(
            key for key in new.keys() | old.keys() if _without_mutable(new).get(key) != _without_mutable(old).get(key)
        )
        causes.forbidden("spec", f"{_IMMUTABLE}; changed: {', '.join(changed)}")


def _without_mutable(spec: Object) -> Object:
    mutable = ("activeDeadlineSeconds", "tolerations", "schedulingGates")
    kept = {key: value for key, value in spec.items() if key not in mutable}
    for field in ("containers", "initContainers"):
        if field in kept:
            kept[field] = [{k: v for k, v in item.items() if k != "image"} for item in kept[field]]
    return kept
