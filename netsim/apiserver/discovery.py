"""Discovery, /version, health and OpenAPI: answers that do not depend on what is stored."""

import platform
from functools import cache
from typing import Any

from netsim.apiserver.openapi import openapi_document, openapi_index
from netsim.apiserver.request import Answer
from netsim.model.kinds import KINDS, Kind

Object = dict[str, Any]

# Clients choose what they send by this number: kubectl 1.32 posts protobuf to a server, distributions' kubectl runs
# the client of the server's minor version. 1.31 is the newest that is JSON throughout.
VERSION = ("1", "31", "v1.31.13")

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_HEALTH = frozenset({"/healthz", "/livez", "/readyz"})


def version() -> Object:
    """What /version answers."""
    major, minor, git_version = VERSION
    return {
        "major": major,
        "minor": minor,
        "gitVersion": git_version,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": f"netsim, Python {platform.python_version()}",
        "platform": f"linux/{_go_machine()}",
    }


def _go_machine() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


# Subresources with a kind of their own: (verbs, group, version, kind).
_SUBRESOURCES: dict[str, tuple[list[str], str, str, str]] = {
    "binding": (["create"], "", "v1", "Binding"),
    "scale": (["get", "patch", "update"], "autoscaling", "v1", "Scale"),
}


def _resources(kind: Kind) -> list[Object]:
    main: Object = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": _VERBS,
    }
    if kind.short_names:
        main["shortNames"] = list(kind.short_names)
    if kind.categories:
        main["categories"] = list(kind.categories)
    found = [main]
    for subresource in kind.subresources:
        entry: Object = {"name": f"{kind.plural}/{subresource}", "singularName": "", "namespaced": kind.namespaced}
        if subresource in _SUBRESOURCES:
            verbs, group, api_version, name = _SUBRESOURCES[subresource]
            entry |= {"kind": name, "verbs": verbs, "version": api_version}
            if group:
                entry["group"] = group
        else:
            verbs = ["get"] if subresource == "log" else ["get", "patch", "update"]
            entry |= {"kind": kind.kind, "verbs": verbs}
        found.append(entry)
    return found


def _groups() -> dict[str, list[str]]:
    """The named groups and their versions, in the order of KINDS."""
    groups: dict[str, list[str]] = {}
    for kind in KINDS:
        if kind.group and kind.version not in groups.setdefault(kind.group, []):
            groups[kind.group].append(kind.version)
    return groups


def _group(name: str, versions: list[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _resource_list(group: str, group_version: str) -> Object | None:
    kinds = [kind for kind in KINDS if kind.group == group and kind.api_version == group_version]
    if not kinds:
        return None
    resources = [resource for kind in kinds for resource in _resources(kind)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def _discover(parts: list[str]) -> Object | None:
    groups = _groups()
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if parts == ["apis"]:
        listed = [_group(name, versions) for name, versions in groups.items()]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    if parts == ["api", "v1"]:
        return _resource_list("", "v1")
    if len(parts) == 2 and parts[0] == "apis" and parts[1] in groups:
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(parts[1], groups[parts[1]])}
    if len(parts) == 3 and parts[0] == "apis":
        return _resource_list(parts[1], f"{parts[1]}/{parts[2]}")
    return None


@cache
def read_static(path: str) -> Answer | None:
    """The answer to a GET of a path that names no object; None if it is none of these."""
    trimmed = path.rstrip("/") or "/"
    parts = trimmed.strip("/").split("/")
    body: Any = None
    if trimmed == "/version":
        body = version()
    elif trimmed in _HEALTH or (len(parts) == 2 and f"/{parts[0]}" in _HEALTH):
        body = "ok"
    elif trimmed == "/metrics":
        body = "# netsim's own figures come with `netsim status`\n"
    elif trimmed == "/":
        body = {"paths": ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v3", "/readyz", "/version"]}
    elif parts[:2] == ["openapi", "v3"]:
        body = openapi_index() if len(parts) == 2 else openapi_document("/".join(parts[2:]))
    elif parts[0] in ("api", "apis") and len(parts) <= 3:
        body = _discover(parts)
    return Answer(200, body) if body is not None else None
