"""What the kernel makes of an ipvs plan: sets, virtual servers and addresses in memory, refusing what it refuses."""

from dataclasses import dataclass, field

from netsim.ruleset.ipvs import RealServer, RealState, ServerKey, VirtualServer
from proxy.ipvs.plan import Existing, IpvsPlan
from proxy.ipvs.sets import TYPES


@dataclass
class Model:
    """``busy``: real servers that hold connections: they stay, with weight 0."""

    sets: dict[str, set[str]] = field(default_factory=dict)
    servers: dict[ServerKey, tuple[VirtualServer, dict[RealServer, int]]] = field(default_factory=dict)
    addresses: set[str] = field(default_factory=set)
    busy: set[RealServer] = field(default_factory=set)
    rules: str = ""

    def apply(self, plan: IpvsPlan) -> None:
        self._restore(plan.sets_before)
        for verb, key, virtual, real in plan.operations:
            if verb == "new":
                assert key not in self.servers, f"{key} is there"
                assert virtual is not None
                self.servers[key] = (virtual, {})
            elif verb == "set":
                assert virtual is not None
                self.servers[key] = (virtual, self.servers[key][1])
            elif verb == "del":
                del self.servers[key]
            elif verb == "ensure":
                assert real is not None
                self.servers[key][1][real] = 1
            else:
                assert real is not None
                self._retire(key, real)
        for address in plan.new_addresses:
            assert address not in self.addresses
            self.addresses.add(address)
        for address in plan.old_addresses:
            self.addresses.remove(address)
        self.rules = plan.rules or self.rules
        self._restore(plan.sets_after)

    def existing(self, local_ips: tuple[str, ...]) -> Existing:
        servers = {
            key: (virtual, {real: RealState(weight) for real, weight in reals.items()})
            for key, (virtual, reals) in self.servers.items()
        }
        found = {name: frozenset(elements) for name, elements in self.sets.items()}
        return Existing({}, found, servers, frozenset(self.addresses), local_ips)

    def _retire(self, key: ServerKey, real: RealServer) -> None:
        reals = self.servers[key][1]
        if real in self.busy and key.protocol == "tcp":
            reals[real] = 0
        else:
            del reals[real]

    def _restore(self, text: str) -> None:
        for line in text.splitlines():
            verb, name, *rest = line.split(" ")
            if verb == "create":
                assert rest[0] == TYPES[name]
                self.sets.setdefault(name, set())
            elif verb == "add":
                assert rest[0] not in self.sets[name], f"{line}: is there"
                self.sets[name].add(rest[0])
            elif verb == "del":
                self.sets[name].remove(rest[0])
            else:
                assert verb == "destroy"
                del self.sets[name]
