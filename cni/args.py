"""The protocol's other inputs: CNI_ARGS, and the names a runtime passes in. Pure."""

import re
from typing import NamedTuple

from cni.types import INVALID_CONFIG, INVALID_ENVIRONMENT, CniError

# SPEC, section 1 and 2: container IDs and network names. Both become file names, so "../x" would be an attack.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")


class CniArgs(NamedTuple):
    """What CNI_ARGS may say to us."""

    ips: tuple[str, ...] = ()
    mac: str = ""


def parse_args(text: str) -> CniArgs:
    """``K=V;K2=V2``: IP and MAC are known, others an error unless IgnoreUnknown is 1 or true (pkg/types/args.go)."""
    values: dict[str, str] = {}
    for pair in text.split(";") if text else ():
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise CniError(INVALID_ENVIRONMENT, f'CNI_ARGS: invalid pair "{pair}"')
        values[key] = value
    ignore = values.pop("IgnoreUnknown", "0").lower()
    if ignore not in ("0", "1", "true", "false"):
        raise CniError(INVALID_ENVIRONMENT, f'CNI_ARGS: IgnoreUnknown: "{ignore}" is neither true nor false')
    ip, mac = values.pop("IP", ""), values.pop("MAC", "")
    if values and ignore in ("0", "false"):
        unknown = ", ".join(f"{k}={v}" for k, v in values.items())
        raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: unknown args [{unknown}]", "set IgnoreUnknown=1 to allow them")
    return CniArgs((ip,) if ip else (), mac)


def check_container_id(container_id: str) -> None:
    """CniError 4 unless it is a container ID."""
    if not _NAME.fullmatch(container_id):
        raise CniError(INVALID_ENVIRONMENT, f'CNI_CONTAINERID: invalid characters in "{container_id}"')


def check_network_name(name: object) -> None:
    """CniError 7 unless it is a network's name."""
    if name is None or name == "":
        raise CniError(INVALID_CONFIG, "missing network name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CniError(INVALID_CONFIG, f"invalid characters found in network name: {name!r}")


def check_ifname(ifname: str) -> None:
    """CniError 4 unless it is an interface's name (dev_valid_name, net/core/dev.c)."""
    words = ""
    if len(ifname.encode()) > 15:
        words = "interface name is longer than 15 bytes"
    elif ifname in (".", ".."):
        words = "interface name is . or .."
    elif any(c in "/:" or c.isspace() for c in ifname):
        words = "interface name contains / or : or whitespace characters"
    if words:
        raise CniError(INVALID_ENVIRONMENT, f'CNI_IFNAME: {words}: "{ifname}"')
