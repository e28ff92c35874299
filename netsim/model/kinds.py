"""The kinds of Kubernetes objects netsim knows, and the words and paths by which each is reached."""

from dataclasses import dataclass

from netsim.model.errors import UsageError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind, as API discovery describes it."""

    group: str  # "" is the core group
    version: str
    kind: str
    plural: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def api_version(self) -> str:
        """``v1``, ``apps/v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """``pods``, ``deployments.apps``: the name upstream's error messages use."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of the collection, of one object, or of its subresource."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


NAMESPACE = Kind("", "v1", "Namespace", "namespaces", False, ("ns",), (), ("status",))
NODE = Kind("", "v1", "Node", "nodes", False, ("no",), (), ("status",))
POD = Kind("", "v1", "Pod", "pods", True, ("po",), ("all",), ("status", "binding", "log"))
SERVICE = Kind("", "v1", "Service", "services", True, ("svc",), ("all",), ("status",))
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps", True, ("cm",))
EVENT = Kind("", "v1", "Event", "events", True, ("ev",))
ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", True)
SERVICE_CIDR = Kind("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", False, (), (), ("status",))
REPLICA_SET = Kind("apps", "v1", "ReplicaSet", "replicasets", True, ("rs",), ("all",), ("status", "scale"))
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments", True, ("deploy",), ("all",), ("status", "scale"))

KINDS: tuple[Kind, ...] = (
    NAMESPACE,
    NODE,
    POD,
    SERVICE,
    CONFIG_MAP,
    EVENT,
    ENDPOINT_SLICE,
    SERVICE_CIDR,
    REPLICA_SET,
    DEPLOYMENT,
)

_BY_TYPE = {(kind.api_version, kind.kind): kind for kind in KINDS}
_BY_WORD = {
    word: kind
    for kind in KINDS
    for word in (kind.plural, kind.singular, kind.resource, f"{kind.singular}.{kind.group}", *kind.short_names)
}


def known_kinds() -> str:
    """The list for messages: ``v1 Pod, apps/v1 Deployment, ...``."""
    return ", ".join(f"{kind.api_version} {kind.kind}" for kind in KINDS)


def kind_of(api_version: str, kind: str) -> Kind | None:
    """The kind of a manifest's ``apiVersion`` and ``kind``, or None if netsim does not know it."""
    return _BY_TYPE.get((api_version, kind))


def find_kind(word: str) -> Kind:
    """The kind a person means: ``pod``, ``pods``, ``po``, ``deployments.apps``.

    Raises UsageError with the list of known kinds.
    """
    found = _BY_WORD.get(word.lower())
    if found is None:
        raise UsageError(f'unknown kind "{word}"', hint=f"known kinds: {', '.join(k.plural for k in KINDS)}")
    return found
