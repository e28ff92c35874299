"""The network namespaces of one cluster by name, and their names under /run/netns."""

import os
from pathlib import Path

from netsim.kernel.netns import Netns
from netsim.kernel.netplan import apply_plan
from netsim.model.errors import NetsimError
from netsim.model.names import short_file_name
from netsim.ruleset.netplan import Plan

NETNS_DIR = Path("/run/netns")  # the sandbox's own, a private tmpfs


class NamespaceRegistry:
    """Who is who. A name under /run/netns is a symbolic link to our descriptor: no mount for each namespace, and it
    works for ``ip netns exec``, which opens it from inside the sandbox, where this process is pid 1.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, Netns] = {}

    def publish(self, name: str, netns: Netns | None) -> None:
        """Give a namespace its name; None takes the name away."""
        link = NETNS_DIR / short_file_name(name)
        link.unlink(missing_ok=True)
        if netns is None:
            self._by_name.pop(name, None)
            return
        self._by_name[name] = netns
        link.symlink_to(f"/proc/{os.getpid()}/fd/{netns.fd}")

    def get(self, name: str) -> Netns | None:
        return self._by_name.get(name)

    def need(self, name: str) -> Netns:
        """Raises NetsimError."""
        found = self._by_name.get(name)
        if found is None:
            raise NetsimError(f'there is no network namespace "{name}"')
        return found

    def apply(self, plan: Plan) -> None:
        """Carry out a network plan in these namespaces. Raises KernelError."""
        apply_plan(plan, self._by_name)
