"""What exists from the start: the system namespaces, the service network, and the Service of the API itself."""

from typing import Any

from netsim.apiserver.routing import Route
from netsim.apiserver.state import State
from netsim.apiserver.strategies.service_cidrs import DEFAULT_NAME
from netsim.apiserver.writing import create
from netsim.model.kinds import NAMESPACE, SERVICE, SERVICE_CIDR

SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


def ensure_system_objects(state: State) -> None:
    """Create what is missing. May be repeated."""
    for name in SYSTEM_NAMESPACES:
        if state.store.get(NAMESPACE.resource, "", name) is None:
            create(state, Route(NAMESPACE), {"metadata": {"name": name}}, {}, [])
    if state.store.get(SERVICE_CIDR.resource, "", DEFAULT_NAME) is None:
        networks = [str(network) for network in state.config.service_cidrs]  # the primary family first, as upstream
        create(state, Route(SERVICE_CIDR), {"metadata": {"name": DEFAULT_NAME}, "spec": {"cidrs": networks}}, {}, [])
    if state.store.get(SERVICE.resource, "default", "kubernetes") is None:
        create(state, Route(SERVICE, "default"), _kubernetes_service(state), {}, [])


def _kubernetes_service(state: State) -> dict[str, Any]:
    # Source: kubernetes pkg/controlplane/controller/kubernetesservice/controller.go.
    labels = {"component": "apiserver", "provider": "kubernetes"}
    return {
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "clusterIP": state.config.api_service_ip,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    }
