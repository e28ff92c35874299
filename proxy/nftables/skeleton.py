"""What the table holds whatever services there are: sets, base chains, and a constant number of rules.

A packet's path: ``services`` looks its destination up in ``service-ips`` or ``service-nodeports``, whose verdict goes
to one of few chains (`proxy.nftables.chains`) that choose an endpoint; what must be refused or dropped is not
translated and is found in filter, by the service's address. Entries in the kernel: see `proxy.nftables.blocks`.

Not chosen: maps of names that lead to one small map of verdicts. The kernel follows every verdict of a table again when
a transaction adds one, and would not need to then; but nft 1.0.6 ends in a failed assertion when it lists such a rule.

Source of the behaviour, of base chains and of most names: kubernetes pkg/proxy/nftables/proxier.go.
"""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network

from netsim.ruleset import nft
from netsim.ruleset.nft import ADDRESS, NUMBER, PORT, PROTOCOL, AddChain, AddRule, Edit, Hook, Rule, SetSpec
from proxy.addresses import choose_cidrs, choose_ips, contains, is_loopback, is_zero_prefix
from proxy.config import FamilyView

TABLE = "kube-proxy"
POLICY_CHAIN = {False: "external-local", True: "nodeport-local"}  # by: is it a NodePort
MARK_CHAIN, MARK_OUTSIDE_CHAIN = "mark-for-masquerade", "mark-traffic-from-outside"
RTN_LOCAL = 2
_NEW = 1 << 3  # ct state new
_DNAT = 1 << 5  # ct status dnat

# Numbers of the sets that blocks fill. The first six have a twin for NodePorts, whose keys have no address.
SERVICES, POD_SERVICES, LOCAL_SERVICES, ENDPOINTS, NO_ENDPOINTS, NO_LOCAL = range(6)
NODE_PORTS = 6
FIREWALL_IPS, FIREWALL_SOURCES, CLUSTER_IPS, HAIRPINS = range(12, 16)


@lru_cache
def service_sets(family: int) -> tuple[SetSpec, ...]:
    """The sets that blocks fill, by number."""
    address = ADDRESS[family]
    by_address, by_port = (address, PROTOCOL, PORT), (PROTOCOL, PORT)

    def twin(key: tuple[nft.FieldType, ...], what: str, services: str) -> tuple[SetSpec, ...]:
        return (
            *(SetSpec(f"{which}{what}", key, verdicts=True) for which in ("", "pod-", "local-")),
            SetSpec("endpoints" if key is by_address else "nodeport-endpoints", (*key, NUMBER), (address, PORT)),
            *(SetSpec(f"{which}-{services}", key) for which in ("no-endpoint", "no-local-endpoint")),
        )

    return (
        *twin(by_address, "service-ips", "services"),
        *twin(by_port, "service-nodeports", "nodeports"),
        SetSpec("firewall-ips", by_address),
        SetSpec("firewall-sources", (*by_address, address), interval=True),
        SetSpec("cluster-ips", (address,)),
        SetSpec("hairpins", (address, address)),
    )


@lru_cache
def node_port_set(family: int) -> SetSpec:
    """The addresses NodePorts answer on."""
    return SetSpec("nodeport-ips", (ADDRESS[family],))


@dataclass(frozen=True, slots=True)
class Layout:
    """How a family's packets and keys lie: word and registers of an address, where a header has addresses."""

    word: str
    registers: int
    bytes: int
    source_offset: int
    destination_offset: int

    def source(self, register: int = 0) -> nft.Payload:
        return nft.Payload(register, 1, self.source_offset, self.bytes)

    def destination(self, register: int = 0) -> nft.Payload:
        return nft.Payload(register, 1, self.destination_offset, self.bytes)

    def service_key(self, *, node_port: bool) -> tuple[str, tuple[nft.Expression, ...], int]:
        """A packet's service as words and into the first registers, and the register after it."""
        after = 0 if node_port else self.registers
        load: tuple[nft.Expression, ...] = (nft.Meta(after, "l4proto"), nft.Payload(after + 1, 2, 2, 2))
        if node_port:
            return "meta l4proto . th dport", load, after + 2
        return f"{self.word} daddr . meta l4proto . th dport", (self.destination(), *load), after + 2


LAYOUTS = {4: Layout("ip", 1, 4, 12, 16), 6: Layout("ip6", 4, 16, 8, 24)}


def _set_name(view: FamilyView, number: int, *, node_port: bool) -> str:
    return service_sets(view.family)[number + (NODE_PORTS if node_port else 0)].name


def _look_up(view: FamilyView, number: int, *, node_port: bool, when: Rule | None = None) -> Rule:
    """Goes where the map of verdicts says for the packet's service; to the next rule if it is not in it."""
    words, load, _ = LAYOUTS[view.family].service_key(node_port=node_port)
    name = _set_name(view, number, node_port=node_port)
    before = when or Rule("", ())
    lookup = nft.Lookup(0, name, to=nft.VERDICT)
    return Rule(f"{before.text} {words} vmap @{name}".strip(), (*before.expressions, *load, lookup))


def mark_rule(view: FamilyView, when: Rule | None = None) -> Rule:
    """Set the masquerade bit."""
    bit = 1 << view.config.masquerade_bit
    before = when or Rule("", ())
    mask = (~bit & 0xFFFFFFFF).to_bytes(4, "little")
    words = f"meta mark set meta mark | 0x{bit:08x}"
    change = (nft.Meta(0, "mark"), nft.Bitwise(0, mask, bit.to_bytes(4, "little")), nft.SetMark(0))
    return Rule(f"{before.text} {words}".strip(), (*before.expressions, *change))


def from_pod(view: FamilyView, *, invert: bool = False) -> Rule | None:
    """Matches what comes from this cluster's pods (or, ``invert``, does not); None when there is no way to tell."""
    config, layout = view.config, LAYOUTS[view.family]
    negation = "!= " if invert else ""
    if config.detect_local_mode in ("BridgeInterface", "InterfaceNamePrefix"):
        exact = config.detect_local_mode == "BridgeInterface"
        name = config.bridge_interface if exact else config.interface_name_prefix
        if not name:
            return None
        value = name.encode().ljust(16, b"\0") if exact else name.encode()
        text = f'iifname {negation}"{name}{"" if exact else "*"}"'
        return Rule(text, (nft.Meta(0, "iifname"), nft.Compare(0, not invert, value)))
    cidrs = view.node.pod_cidrs if config.detect_local_mode == "NodeCIDR" else config.cluster_cidrs
    cidr = next(iter(choose_cidrs(cidrs, view.family)), "")
    if not cidr:
        return None
    text = f"{layout.word} saddr {negation}{cidr}"
    return Rule(text, (layout.source(), *_in_network(cidr, equal=not invert)))


def _in_network(cidr: str, *, equal: bool = True) -> tuple[nft.Expression, ...]:
    network = ip_network(cidr)
    mask, base = network.netmask.packed, network.network_address.packed
    return nft.Bitwise(0, mask, bytes(len(mask))), nft.Compare(0, equal, base)


def node_port_ips(view: FamilyView) -> tuple[str, ...] | None:
    """The addresses NodePorts answer on; None: every local one but loopback.

    Without nodePortAddresses the node's first of the family, as upstream's nftables mode has it (``primary``). Never
    loopback.
    """
    own = choose_ips(view.node.ips, view.family)
    if not view.config.node_port_addresses:
        return own[:1]
    cidrs = choose_cidrs(view.config.node_port_addresses, view.family)
    if any(map(is_zero_prefix, cidrs)):
        return None
    return tuple(ip for ip in own if not is_loopback(ip) and any(contains(cidr, ip) for cidr in cidrs))


def to_node(view: FamilyView) -> Rule:
    """Matches packets to an address that NodePorts answer on."""
    layout = LAYOUTS[view.family]
    if node_port_ips(view) is not None:
        return Rule(f"{layout.word} daddr @nodeport-ips", (layout.destination(), nft.Lookup(0, "nodeport-ips")))
    loopback = "127.0.0.0/8" if view.family == 4 else "::1"
    local = (nft.Fib(0, source=False), nft.Compare(0, True, RTN_LOCAL.to_bytes(4, "little")))
    return Rule(
        f"fib daddr type local {layout.word} daddr != {loopback}",
        (*local, layout.destination(), *_in_network(loopback, equal=False)),
    )


_STATE_NEW = (
    nft.Conntrack(0, "state"),
    nft.Bitwise(0, _NEW.to_bytes(4, "little"), bytes(4)),
    nft.Compare(0, False, bytes(4)),
)


def _jump(chain: str) -> Rule:
    return Rule(f"jump {chain}", (nft.Verdict("jump", chain),))


def _jump_new(chain: str) -> Rule:
    return Rule(f"ct state new jump {chain}", (*_STATE_NEW, nft.Verdict("jump", chain)))


# Upstream's base chains. Priorities: dstnat (-100), ten before it (packets still have the service's address), filter
# (0), srcnat (100).
_BASE: dict[str, tuple[Hook, tuple[Rule, ...]]] = {
    "filter-prerouting-pre-dnat": (Hook("filter", "prerouting", -110), (_jump_new("firewall-check"),)),
    "filter-output-pre-dnat": (Hook("filter", "output", -110), (_jump_new("firewall-check"),)),
    "filter-input": (
        Hook("filter", "input", 0),
        (_jump_new("nodeport-endpoints-check"), _jump_new("service-endpoints-check")),
    ),
    "filter-forward": (
        Hook("filter", "forward", 0),
        (_jump_new("service-endpoints-check"), _jump_new("cluster-ips-check")),
    ),
    "filter-output": (
        Hook("filter", "output", 0),
        (_jump_new("service-endpoints-check"), _jump_new("cluster-ips-check")),
    ),
    "nat-prerouting": (Hook("nat", "prerouting", -100), (_jump("services"),)),
    "nat-output": (Hook("nat", "output", -100), (_jump("services"),)),
    "nat-postrouting": (Hook("nat", "postrouting", 100), (_jump("masquerading"),)),
}


def _in_set(layout: Layout, name: str, *, node_port: bool, when: Rule | None = None) -> Rule:
    words, load, _ = layout.service_key(node_port=node_port)
    before = when or Rule("", ())
    return Rule(f"{before.text} {words} @{name}".strip(), (*before.expressions, *load, nft.Lookup(0, name)))


def _then(rule: Rule, verdict: nft.Verdict) -> Rule:
    return Rule(f"{rule.text} {verdict.word} {verdict.chain}".strip(), (*rule.expressions, verdict))


def _refusals(view: FamilyView, *, node_port: bool, when: Rule | None = None) -> tuple[Rule, ...]:
    """Two sets and not one map of verdicts: nothing to follow for the kernel when one is added."""
    layout = LAYOUTS[view.family]
    none = _in_set(layout, _set_name(view, NO_ENDPOINTS, node_port=node_port), node_port=node_port, when=when)
    none_here = _in_set(layout, _set_name(view, NO_LOCAL, node_port=node_port), node_port=node_port, when=when)
    return _then(none, nft.Verdict("goto", "reject-chain")), _then(none_here, nft.Verdict("drop"))


def _firewall_rules(layout: Layout) -> tuple[Rule, ...]:
    words, load, after = layout.service_key(node_port=False)
    listed = _in_set(layout, "firewall-ips", node_port=False)
    text = f"{listed.text} {words} . {layout.word} saddr != @firewall-sources drop"
    lookup = nft.Lookup(0, "firewall-sources", invert=True)
    return (Rule(text, (*listed.expressions, *load, layout.source(after), lookup, nft.Verdict("drop"))),)


def _cluster_ip_rules(view: FamilyView) -> tuple[Rule, ...]:
    """What reaches this chain with a service's address was not translated: a port that the service does not have."""
    layout = LAYOUTS[view.family]
    known = (layout.destination(), nft.Lookup(0, "cluster-ips"), nft.Verdict("goto", "reject-chain"))
    rules = [Rule(f"{layout.word} daddr @cluster-ips goto reject-chain", known)]
    for cidr in choose_cidrs(view.config.service_cidrs, view.family):
        expressions = (layout.destination(), *_in_network(cidr), nft.Verdict("drop"))
        rules.append(Rule(f"{layout.word} daddr {cidr} drop", expressions))
    return tuple(rules)


def _masquerading_rules(view: FamilyView) -> tuple[Rule, ...]:
    """What is marked (without its mark, or it would be masqueraded again after encapsulation), and what meets itself.

    nftables cannot compare source and destination, so hairpins holds each endpoint's address twice.
    """
    layout = LAYOUTS[view.family]
    bit = 1 << view.config.masquerade_bit
    value, zero = bit.to_bytes(4, "little"), bytes(4)
    marked = (nft.Meta(0, "mark"), nft.Bitwise(0, value, zero), nft.Compare(0, False, zero))
    unmark = (nft.Meta(0, "mark"), nft.Bitwise(0, b"\xff" * 4, value), nft.SetMark(0))
    words = f"meta mark & 0x{bit:08x} != 0x00000000 meta mark set meta mark ^ 0x{bit:08x} masquerade fully-random"
    translated = (
        nft.Conntrack(0, "status"),
        nft.Bitwise(0, _DNAT.to_bytes(4, "little"), zero),
        nft.Compare(0, False, zero),
    )
    pair = (layout.source(0), layout.destination(layout.registers), nft.Lookup(0, "hairpins"))
    word = layout.word
    return (
        Rule(words, (*marked, *unmark, nft.Masquerade())),
        Rule(
            f"ct status dnat {word} saddr . {word} daddr @hairpins masquerade fully-random",
            (*translated, *pair, nft.Masquerade()),
        ),
    )


def _policy_rules(view: FamilyView, *, node_port: bool) -> tuple[Rule, ...]:
    """externalTrafficPolicy Local: none for pods and the node itself, as if they had come through a load balancer."""
    local = Rule("fib saddr type local", (nft.Fib(0, True), nft.Compare(0, True, RTN_LOCAL.to_bytes(4, "little"))))
    pod = from_pod(view)
    rules = [] if pod is None else [_look_up(view, POD_SERVICES, node_port=node_port, when=pod)]
    return (
        *rules,
        _then(local, nft.Verdict("jump", MARK_CHAIN)),
        _look_up(view, POD_SERVICES, node_port=node_port, when=local),
        _look_up(view, LOCAL_SERVICES, node_port=node_port),
    )


def outside_rules(view: FamilyView) -> tuple[Rule, ...]:
    """A ClusterIP's traffic from no pod, by a static route to any node, must come back here, so it is masqueraded."""
    if view.config.masquerade_all:
        return (mark_rule(view),)
    outside = from_pod(view, invert=True)
    return () if outside is None else (mark_rule(view, outside),)


def plan_skeleton(view: FamilyView) -> list[Edit]:
    """Sets, chains and rules that are there whatever services there are, and the elements that the node decides."""
    layout, addresses = LAYOUTS[view.family], node_port_set(view.family)
    chains: dict[str, tuple[Rule, ...]] = {
        "services": (
            _look_up(view, SERVICES, node_port=False),
            _look_up(view, SERVICES, node_port=True, when=to_node(view)),
        ),
        "service-endpoints-check": _refusals(view, node_port=False),
        "nodeport-endpoints-check": _refusals(view, node_port=True, when=to_node(view)),
        "firewall-check": _firewall_rules(layout),
        "cluster-ips-check": _cluster_ip_rules(view),
        "masquerading": _masquerading_rules(view),
        "reject-chain": (Rule("reject", (nft.Reject(),)),),
        MARK_CHAIN: (mark_rule(view),),
        MARK_OUTSIDE_CHAIN: outside_rules(view),
        **{name: _policy_rules(view, node_port=node_port) for node_port, name in POLICY_CHAIN.items()},
    }
    edits: list[Edit] = [nft.AddSet(spec) for spec in (*service_sets(view.family), addresses)]
    edits += [AddChain(name) for name in chains]
    edits += [AddRule(name, rule) for name, rules in chains.items() for rule in rules]
    own = node_port_ips(view)
    if own:
        edits.append(nft.AddElements(addresses, [(nft.pack_address(ip), b"") for ip in dict.fromkeys(own)]))
    return edits


def plan_hooks() -> list[Edit]:
    """The base chains; last of all, so that no packet meets half a table even where a sync takes two transactions."""
    edits: list[Edit] = []
    for name, (hook, rules) in _BASE.items():
        edits += [AddChain(name, hook), *(AddRule(name, rule) for rule in rules)]
    return edits
