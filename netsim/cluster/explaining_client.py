"""What a Cluster handle offers about rules and predicted paths."""

from netsim.cluster.control_client import ControlClient
from netsim.model.target import parse_service
from netsim.observe.rules.model import ServiceRules
from netsim.observe.rules.render import load_rules


class Explaining:
    """Part of `netsim.cluster.handle.Cluster`."""

    _control: ControlClient

    def rules(self, service: str, *, node: str | None = None) -> ServiceRules:
        """The rules, map elements and virtual servers that serve one Service, on a node or on all of them.

        service: ``svc/[NAMESPACE/]NAME``. Read from the kernel, which knows nothing of Services: found by the Service's
        addresses and ports. Raises ApiError if there is no such Service, NetsimError if no such node.
        """
        target = parse_service(service)
        return load_rules(self._control.ask("rules", service=str(target), node=node))
