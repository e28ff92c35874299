"""The rules of one service port on one node.

The packet's path: nat KUBE-SERVICES matches a service address and goes to KUBE-SVC- (any endpoint), KUBE-SVL-
(endpoints on this node) or KUBE-EXT- (from outside: masquerade or policy first), which picks a KUBE-SEP-, which
translates. What must be refused or dropped is not translated and meets a rule in filter, as nat cannot reject. Cost
on a node: one rule for each address, 2 for each endpoint and 1 more for each list the endpoint is in.

Source: kubernetes pkg/proxy/iptables/proxier.go, syncProxyRules and writeServiceToEndpointRules.
"""

from dataclasses import dataclass
from functools import lru_cache

from proxy.addresses import contains
from proxy.config import FamilyView
from proxy.iptables import names
from proxy.servicemap import Endpoint, Entry, ServicePort
from proxy.topology import Choice

# The chains that hold something of every service port, in the order of Block.heads.
HEADS = (
    ("filter", names.SERVICES),
    ("filter", names.EXTERNAL_SERVICES),
    ("filter", names.NODEPORTS),
    ("filter", names.PROXY_FIREWALL),
    ("nat", names.SERVICES),
    ("nat", names.NODEPORTS),
)
F_SERVICES, F_EXTERNAL, F_NODEPORTS, F_FIREWALL, N_SERVICES, N_NODEPORTS = range(len(HEADS))


@dataclass(frozen=True, slots=True)
class Block:
    """``heads``: this service port's rules in each chain of HEADS; ``chains``: its own chains in table nat."""

    heads: tuple[tuple[str, ...], ...]
    chains: dict[str, tuple[str, ...]]


@lru_cache(maxsize=4096)
def probability(count: int) -> str:
    """The chance of the first of ``count`` equal endpoints."""
    return f"{1 / count:.10f}"


@lru_cache(maxsize=1 << 17)
def _endpoint_rules(
    name: str, protocol: str, ip: str, address: str, sticky: bool, comments: bool
) -> tuple[str, tuple[str, ...]]:
    """An endpoint's chain and its rules: masquerade what comes back to its sender, remember the client, translate."""
    chain = names.endpoint_chain(name, protocol, address)
    comment = f"-m comment --comment {name} " if comments else ""
    remember = f"-m recent --name {chain} --set " if sticky else ""
    return chain, (
        f"{comment}-s {ip} -j {names.MARK_MASQ}",
        f"{comment}{remember}-m {protocol} -p {protocol} -j DNAT --to-destination {address}",
    )


def make_block(
    entry: Entry, choice: Choice, view: FamilyView, *, comments: bool = True, counted: bool = False
) -> Block:
    """The block of ``entry`` on ``view``'s node. Nodes for which it is the same get the same object.

    ``counted``: the node has `names.COUNTERS`.
    """
    counted = counted and view.localhost_node_ports
    service = entry.service
    from_node = _allows_node(service, view)
    key = (Block, id(choice), view.local, view.config.masquerade_all, from_node, comments, counted)
    block: Block | None = entry.memo.get(key)
    if block is None:
        block = entry.memo[key] = _Writer(service, choice, view, comments, from_node, counted).write()
    return block


def _allows_node(service: ServicePort, view: FamilyView) -> bool:
    if not service.source_ranges:
        return False
    ip = view.node.ip(view.family)
    return bool(ip) and any(contains(cidr, ip) for cidr in service.source_ranges)


class _Writer:
    """Writes one block; the names of its fields are those of upstream's variables."""

    def __init__(
        self, service: ServicePort, choice: Choice, view: FamilyView, comments: bool, from_node: bool, counted: bool
    ) -> None:
        self.counted = counted
        self.service = service
        self.choice = choice
        self.view = view
        self.comments = comments
        self.from_node = from_node
        self.name = str(service.name)
        self.heads: list[list[str]] = [[] for _ in HEADS]
        self.chains: dict[str, tuple[str, ...]] = {}
        suffix = names.service_hash(self.name, service.protocol)
        self.cluster_chain = names.CLUSTER_PREFIX + suffix
        self.local_chain = names.LOCAL_PREFIX + suffix
        self.external_chain = names.EXTERNAL_PREFIX + suffix
        self.firewall_chain = names.FIREWALL_PREFIX + suffix
        self.has_internal = choice.has_any and (bool(choice.local) or not service.internal_local)
        self.has_external = choice.has_any and (bool(choice.local) or not service.external_local)
        self.internal_chain = self.local_chain if service.internal_local else self.cluster_chain
        self.uses_firewall = bool(choice.has_any and service.load_balancer_ips and service.source_ranges)

    def write(self) -> Block:
        service, choice = self.service, self.choice
        self._capture_cluster_ip()
        self._capture_external(service.external_ips, "external IP", self.external_chain)
        entrance = self.firewall_chain if self.uses_firewall else self.external_chain
        self._capture_external(service.load_balancer_ips, "loadbalancer IP", entrance)
        self._capture_node_port()
        before: list[str] = self._internal_rules() if self.has_internal else []
        written = {str(endpoint): self._endpoint(endpoint) for endpoint in choice.reachable}
        if choice.has_any and service.externally_accessible:
            self.chains[self.external_chain] = tuple(self._external_rules())
        if self.uses_firewall:
            self.chains[self.firewall_chain] = tuple(self._firewall_rules())
        for chain, endpoints in ((self.cluster_chain, choice.cluster), (self.local_chain, choice.local)):
            if endpoints:
                first = before if chain == self.internal_chain else []
                self.chains[chain] = (*first, *self._balance([(written[a][0], a) for a in map(str, endpoints)]))
        self.chains.update(written.values())
        return Block(tuple(map(tuple, self.heads)), self.chains)

    def _match(self, ip: str, port: int) -> str:
        protocol = self.service.protocol
        return f"-m {protocol} -p {protocol} -d {ip} --dport {port}"

    def _refusal(self, has: bool) -> tuple[str, str] | None:
        """(comment, verdict) for traffic that has no endpoint, or None if it has."""
        if not self.choice.has_any:
            return f"{self.name} has no endpoints", "REJECT"
        return None if has else (f"{self.name} has no local endpoints", "DROP")

    def _capture_cluster_ip(self) -> None:
        match = self._match(self.service.cluster_ip, self.service.port)
        refusal = self._refusal(self.has_internal)
        if refusal is None:
            comment = f"{self.name} cluster IP"
            self.heads[N_SERVICES].append(f'-m comment --comment "{comment}" {match} -j {self.internal_chain}')
        else:
            self.heads[F_SERVICES].append(f'-m comment --comment "{refusal[0]}" {match} -j {refusal[1]}')

    def _capture_external(self, ips: tuple[str, ...], what: str, chain: str) -> None:
        refusal = self._refusal(self.has_external)
        for ip in ips:
            match = self._match(ip, self.service.port)
            if self.choice.has_any:
                self.heads[N_SERVICES].append(f'-m comment --comment "{self.name} {what}" {match} -j {chain}')
            if chain == self.firewall_chain:
                comment = f"{self.name} traffic not accepted by {chain}"
                self.heads[F_FIREWALL].append(f'-m comment --comment "{comment}" {match} -j DROP')
            if refusal is not None:
                self.heads[F_EXTERNAL].append(f'-m comment --comment "{refusal[0]}" {match} -j {refusal[1]}')

    def _capture_node_port(self) -> None:
        service, protocol = self.service, self.service.protocol
        if service.node_port:
            match = f"-m {protocol} -p {protocol} --dport {service.node_port}"
            refusal = self._refusal(self.has_external)
            if self.choice.has_any and self.counted:
                loopback = f"-m {protocol} -p {protocol} -d 127.0.0.0/8 --dport {service.node_port}"
                count = f"-m nfacct --nfacct-name {names.LOCALHOST_COUNTER}"
                rule = f"-m comment --comment {self.name} {loopback} {count} -j {self.external_chain}"
                self.heads[N_NODEPORTS].append(rule)
            if self.choice.has_any:
                rule = f"-m comment --comment {self.name} {match} -j {self.external_chain}"
                self.heads[N_NODEPORTS].append(rule)
            if refusal is not None:
                where = f"-m addrtype --dst-type LOCAL {match}"
                self.heads[F_EXTERNAL].append(f'-m comment --comment "{refusal[0]}" {where} -j {refusal[1]}')
        if service.health_check_node_port:
            comment = f"{self.name} health check node port"
            match = f"-m tcp -p tcp --dport {service.health_check_node_port}"
            self.heads[F_NODEPORTS].append(f'-m comment --comment "{comment}" {match} -j ACCEPT')

    def _internal_rules(self) -> list[str]:
        """Masquerade what comes to the ClusterIP from outside, by a static route to any node: it must return here."""
        match = self._match(self.service.cluster_ip, self.service.port)
        start = f'-m comment --comment "{self.name} cluster IP" {match}'
        if self.view.config.masquerade_all:
            return [f"{start} -j {names.MARK_MASQ}"]
        if self.view.not_local:
            return [f"{start} {self.view.not_local} -j {names.MARK_MASQ}"]
        return []

    def _external_rules(self) -> list[str]:
        what = f"{self.name} external destinations"
        rules: list[str] = []
        if not self.service.external_local:
            rules.append(f'-m comment --comment "masquerade traffic for {what}" -j {names.MARK_MASQ}')
        else:
            # No policy for pods and the node itself: as if they had gone out to a load balancer and come back.
            if self.view.local:
                comment = f'-m comment --comment "pod traffic for {what}"'
                rules.append(f"{comment} {self.view.local} -j {self.cluster_chain}")
            local = "-m addrtype --src-type LOCAL"
            rules.append(f'-m comment --comment "masquerade LOCAL traffic for {what}" {local} -j {names.MARK_MASQ}')
            rules.append(f'-m comment --comment "route LOCAL traffic for {what}" {local} -j {self.cluster_chain}')
        if self.has_external:
            rules.append(f"-j {self.local_chain if self.service.external_local else self.cluster_chain}")
        return rules

    def _firewall_rules(self) -> list[str]:
        start = f'-m comment --comment "{self.name} loadbalancer IP"'
        sources = list(self.service.source_ranges)
        if self.from_node:
            # A node that has the load balancer's address as its own may send from it.
            sources += self.service.load_balancer_ips
        comment = f"other traffic to {self.name} will be dropped by {names.PROXY_FIREWALL}"
        return [
            *(f"{start} -s {source} -j {self.external_chain}" for source in sources),
            f'-m comment --comment "{comment}"',
        ]

    def _endpoint(self, endpoint: Endpoint) -> tuple[str, tuple[str, ...]]:
        sticky = self.service.affinity_timeout_s > 0
        address = str(endpoint)
        return _endpoint_rules(self.name, self.service.protocol, endpoint.ip, address, sticky, self.comments)

    def _balance(self, targets: list[tuple[str, str]]) -> list[str]:
        """First the endpoint that the client had last, then an equal chance for each. ``targets``: chain, address."""
        timeout_s = self.service.affinity_timeout_s
        rules: list[str] = []
        if timeout_s:
            rules += [
                f"{self._arrow(address)}-m recent --name {chain} --rcheck --seconds {timeout_s} --reap -j {chain}"
                for chain, address in targets
            ]
        left = len(targets)
        for chain, address in targets:
            chance = f"-m statistic --mode random --probability {probability(left)} " if left > 1 else ""
            rules.append(f"{self._arrow(address)}{chance}-j {chain}")
            left -= 1
        return rules

    def _arrow(self, address: str) -> str:
        return f'-m comment --comment "{self.name} -> {address}" ' if self.comments else ""
