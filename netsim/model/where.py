"""WHERE on the command line and in Python: a pod, a node or an external host; and the fabric, for those who watch."""

from dataclasses import dataclass

from netsim.model.errors import UsageError
from netsim.model.names import FABRIC, check_link_name, pod_namespace

HINT = "write pod/[NAMESPACE/]NAME, node/NAME or host/NAME (host/external is always there)"


@dataclass(frozen=True, slots=True)
class Where:
    """One place in the cluster that has a network namespace."""

    kind: str  # "pod", "node" or "host"; "fabric" where that can be meant
    name: str
    namespace: str = ""  # of a pod

    @property
    def netns(self) -> str:
        """The name of its network namespace in the sandbox's /run/netns."""
        return pod_namespace(self.namespace, self.name) if self.kind == "pod" else self.name

    def __str__(self) -> str:
        if self.kind == "pod":
            return f"pod/{self.namespace}/{self.name}"
        return FABRIC if self.kind == FABRIC else f"{self.kind}/{self.name}"


def parse_where(text: str, namespace: str = "default") -> Where:
    """``pod/web``, ``pod/shop/web``, ``node/node-1``, ``host/external``. Raises UsageError."""
    kind, _, rest = text.partition("/")
    parts = rest.split("/")
    if not all(parts) or kind not in ("pod", "node", "host"):
        raise UsageError(f'"{text}" is no place', hint=HINT)
    if kind == "pod" and len(parts) in (1, 2):
        return Where("pod", parts[-1], parts[0] if len(parts) == 2 else namespace)
    if kind != "pod" and len(parts) == 1:
        return Where(kind, rest)
    raise UsageError(f'"{text}" is no place', hint=HINT)


def parse_spot(text: str, namespace: str = "default") -> tuple[Where, str | None]:
    """A place, or one interface of it: ``pod/web``, ``node/node-1:cni0``, ``fabric``, ``fabric:fabric0``.

    The fabric is the node network's own namespace: packets can be seen there, nothing runs there. Raises UsageError.
    """
    place, colon, interface = text.partition(":")
    if colon:
        check_link_name(interface)
    where = Where(FABRIC, FABRIC) if place == FABRIC else parse_where(place, namespace)
    return where, interface or None
