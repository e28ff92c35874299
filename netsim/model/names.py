"""Names of links, namespaces and tables, derived and readable; the only place that makes them."""

import hashlib

from netsim.model.errors import UsageError

LINK_NAME_MAX_BYTES = 15  # IFNAMSIZ - 1, include/uapi/linux/if.h
FILE_NAME_MAX_BYTES = 255  # NAME_MAX, include/uapi/linux/limits.h

FABRIC = "fabric"  # the sandbox's own network namespace
EXTERNAL = "external"  # the external host
RESERVED_NAMESPACES = frozenset({FABRIC, EXTERNAL})

FABRIC_BRIDGE = "fabric0"  # in the fabric: every node's eth0 ends here
FABRIC_EXTERNAL = "external0"  # in the fabric: the router's leg to the external host
POD_BRIDGE = "cni0"  # in a node: every pod's eth0 ends here
VXLAN_LINK = "vxlan0"  # in a node, pod-network vxlan

NODE_TABLE = "netsim-node"  # nft table: masquerading of pod traffic that leaves the cluster
FAULT_TABLE = "netsim-fault-"  # nft tables: one for each fault that drops packets, with its number
CNI_TABLE = "netsim-cni"  # nft table: the CNI plugin's ipMasq and port mappings


def check_object_name(name: str) -> str:
    """``name``, or UsageError if it can't name an object: part of a URL, "" would mean all objects of its kind
    (upstream's IsValidPathSegmentName).
    """
    if name in ("", ".", "..") or any(c in "/%?#" or c.isspace() for c in name):
        raise UsageError(f'"{name}" is no name of an object', hint="names have letters, digits, '-' and '.'")
    return name


def pod_namespace(namespace: str, pod: str) -> str:
    """The network namespace of a pod: ``default_web-0``. Object names have no underscore, so this is unambiguous."""
    return f"{namespace}_{pod}"


def node_link(node: str) -> str:
    """The fabric's end of a node's eth0: the node's name where it fits, else shortened with a hash."""
    return short_link_name(node)


def short_link_name(name: str) -> str:
    """``name`` if it fits a link name, else its head and 6 hex digits of its SHA-256."""
    if len(name.encode()) <= LINK_NAME_MAX_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: LINK_NAME_MAX_BYTES - 7]}-{digest}"


def short_file_name(name: str) -> str:
    """``name`` if it fits a file's name, else its head and 12 hex digits of its SHA-256: a pod's namespace and name
    together may have 317 bytes.
    """
    if len(name.encode()) <= FILE_NAME_MAX_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: FILE_NAME_MAX_BYTES - 13]}-{digest}"


def check_link_name(name: str) -> str:
    """``name``, or UsageError if the kernel would refuse it (dev_valid_name, net/core/dev.c)."""
    bad = name in ("", ".", "..") or any(c in "/:" or c.isspace() for c in name)
    if bad or len(name.encode()) > LINK_NAME_MAX_BYTES:
        raise UsageError(f'"{name}" is no link name', hint="1 to 15 bytes, without '/', ':' or white space")
    return name
