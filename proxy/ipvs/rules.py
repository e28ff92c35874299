"""The iptables rules of the ipvs mode. They name ipsets and never a service, so they are written in a full sync only.

A packet's path: PREROUTING or OUTPUT marks what must be masqueraded and accepts the rest; the address is on kube-ipvs0,
so INPUT takes it; filter INPUT refuses what is to a service address but to no service (KUBE-IPVS-FILTER); behind it
IPVS translates and sends it on; POSTROUTING masquerades. Rules about sets that are empty are there too, which upstream
leaves out: they match nothing, and no change of a service ever touches iptables.

Source: kubernetes pkg/proxy/ipvs/proxier.go, writeIptablesRules, ipsetWithIptablesChain, iptablesJumpChain.
"""

from netsim.ruleset.iptables import TableEdit, Tables
from proxy.config import FamilyView
from proxy.ipvs import sets
from proxy.ipvs.sets import set_name

# Upstream's ipvs mode shares KUBE-SERVICES, KUBE-POSTROUTING, KUBE-MARK-MASQ, KUBE-FORWARD and KUBE-PROXY-FIREWALL with
# its iptables mode. Here they have names of their own: while a node changes modes both stand side by side, and the
# removal of one must not touch the other.
SERVICES = "KUBE-IPVS-SERVICES"
POSTROUTING = "KUBE-IPVS-POSTROUTING"
MARK_MASQ = "KUBE-IPVS-MARK-MASQ"
FORWARD = "KUBE-IPVS-FORWARD"
PROXY_FIREWALL = "KUBE-IPVS-FIREWALL"
NODE_PORT = "KUBE-NODE-PORT"
LOAD_BALANCER = "KUBE-LOAD-BALANCER"
SOURCE_RANGES = "KUBE-SOURCE-RANGES-FIREWALL"
FILTER = "KUBE-IPVS-FILTER"
OUT_FILTER = "KUBE-IPVS-OUT-FILTER"

CHAINS = {
    "nat": (SERVICES, POSTROUTING, NODE_PORT, LOAD_BALANCER, MARK_MASQ),
    "filter": (FORWARD, NODE_PORT, PROXY_FIREWALL, SOURCE_RANGES, FILTER, OUT_FILTER),
}
_JUMPS = (  # table, chain, target, comment; each is put in front, so the last one of a chain ends up first
    ("nat", "PREROUTING", SERVICES, "kubernetes service portals"),
    ("nat", "OUTPUT", SERVICES, "kubernetes service portals"),
    ("nat", "POSTROUTING", POSTROUTING, "kubernetes postrouting rules"),
    ("filter", "FORWARD", FORWARD, "kubernetes forwarding rules"),
    ("filter", "INPUT", NODE_PORT, "kubernetes health check rules"),
    ("filter", "INPUT", PROXY_FIREWALL, "kube-proxy firewall rules"),
    ("filter", "FORWARD", PROXY_FIREWALL, "kube-proxy firewall rules"),
    ("filter", "INPUT", FILTER, "kubernetes ipvs access filter"),
    ("filter", "OUTPUT", OUT_FILTER, "kubernetes ipvs access filter"),
)


def jumps(table: str) -> tuple[tuple[str, str], ...]:
    """(built-in chain, rule) pairs of a table."""
    return tuple(
        (chain, f'-m comment --comment "{comment}" -j {target}') for t, chain, target, comment in _JUMPS if t == table
    )


def plan_rules(view: FamilyView, existing: Tables) -> list[TableEdit]:
    """Every chain, and the jumps that ``existing`` lacks."""
    edits = [TableEdit("filter", _filter_chains(view)), TableEdit("nat", _nat_chains(view))]
    for edit in edits:
        chains = existing.get(edit.table, {})
        edit.prepend = tuple((chain, spec) for chain, spec in jumps(edit.table) if spec not in chains.get(chain, ()))
    return edits


def plan_no_rules(existing: Tables) -> list[TableEdit]:
    """Jumps and chains go."""
    edits = []
    for table, ours in CHAINS.items():
        chains = existing.get(table, {})
        present = tuple(chain for chain in ours if chain in chains)
        gone = tuple((chain, spec) for chain, spec in jumps(table) if spec in chains.get(chain, ()))
        edits.append(TableEdit(table, remove=gone, delete=present))
    return edits


def check_text(view: FamilyView) -> str:
    """An edit that changes nothing, and fails where our jumps or the last rule of a chain are gone."""
    lines = []
    for table, chains in (("filter", _filter_chains(view)), ("nat", _nat_chains(view))):
        lines.append(f"*{table}")
        lines += [f"-C {chain} {spec}" for chain, spec in jumps(table)]
        lines += [f"-C {chain} {specs[-1]}" for chain, specs in chains.items()]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def _match(name: str, directions: str, view: FamilyView) -> str:
    return f"-m set --match-set {set_name(name, view.family)} {directions}"


def _nat_chains(view: FamilyView) -> dict[str, tuple[str, ...]]:
    mark = view.config.masquerade_mark
    return {
        SERVICES: tuple(_services_rules(view)),
        POSTROUTING: (
            f"{_match(sets.LOOP_BACK, 'dst,dst,src', view)} -j MASQUERADE",
            f"-m mark ! --mark {mark}/{mark} -j RETURN",
            f"-j MARK --xor-mark {mark}",
            '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
        ),
        NODE_PORT: tuple(_node_port_rules(view)),
        LOAD_BALANCER: (
            f"{_match(sets.LOAD_BALANCER_LOCAL, 'dst,dst', view)} -j RETURN",
            f"-j {MARK_MASQ}",
        ),
        MARK_MASQ: (f"-j MARK --or-mark {mark}",),
    }


def _services_rules(view: FamilyView) -> list[str]:
    cluster = _match(sets.CLUSTER_IP, "dst,dst", view)
    if view.config.masquerade_all:
        masquerade = f"{cluster} -j {MARK_MASQ}"
    elif view.not_local:
        masquerade = f"{cluster} {view.not_local} -j {MARK_MASQ}"
    else:  # the node's own: it takes the service's address for its source, which is on kube-ipvs0
        masquerade = f"{_match(sets.CLUSTER_IP, 'src,dst', view)} -j {MARK_MASQ}"
    rules = [
        f"-s {'127.0.0.0/8' if view.family == 4 else '::1/128'} -j RETURN",
        f"{_match(sets.LOAD_BALANCER, 'dst,dst', view)} -j {LOAD_BALANCER}",
        masquerade,
    ]
    for name in (sets.EXTERNAL_IP, sets.EXTERNAL_IP_LOCAL):
        match = _match(name, "dst,dst", view)
        if name == sets.EXTERNAL_IP:
            rules.append(f"{match} -j {MARK_MASQ}")
        # From off this machine, as far as that can be told: neither through a bridge port nor from the node itself.
        rules.append(f"{match} -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT")
        rules.append(f"{match} -m addrtype --dst-type LOCAL -j ACCEPT")
    rules.append(f"-m addrtype --dst-type LOCAL -j {NODE_PORT}")
    rules += [f"{_match(name, 'dst,dst', view)} -j ACCEPT" for name in (sets.CLUSTER_IP, sets.LOAD_BALANCER)]
    return rules


def _node_port_rules(view: FamilyView) -> list[str]:
    rules = []
    for protocol in ("tcp", "udp", "sctp"):
        directions = "dst,dst" if protocol == "sctp" else "dst"
        for name, target in ((sets.NODE_PORT_LOCAL[protocol], "RETURN"), (sets.NODE_PORT[protocol], MARK_MASQ)):
            rules.append(f"-p {protocol} {_match(name, directions, view)} -j {target}")
    return rules


def _filter_chains(view: FamilyView) -> dict[str, tuple[str, ...]]:
    mark = view.config.masquerade_mark
    health = _match(sets.HEALTH_CHECK_NODE_PORT, "dst", view)
    services = (sets.LOAD_BALANCER, sets.CLUSTER_IP, sets.EXTERNAL_IP, sets.EXTERNAL_IP_LOCAL)
    # A service address is an address of the node: without this its sshd would answer there (#72236, #119656).
    access = (
        *(f"{_match(name, 'dst,dst', view)} -j RETURN" for name in services),
        f"{health} -j RETURN",
        f"-m conntrack --ctstate NEW {_match(sets.IPVS_IPS, 'dst', view)} -j REJECT",
    )
    return {
        FORWARD: (
            f'-m comment --comment "kubernetes forwarding rules" -m mark --mark {mark}/{mark} -j ACCEPT',
            '-m comment --comment "kubernetes forwarding conntrack rule" '
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        ),
        NODE_PORT: (f"-p tcp {health} -j ACCEPT",),
        PROXY_FIREWALL: (f"{_match(sets.LOAD_BALANCER_FW, 'dst,dst', view)} -j {SOURCE_RANGES}",),
        SOURCE_RANGES: (
            f"{_match(sets.LOAD_BALANCER_SOURCE_CIDR, 'dst,dst,src', view)} -j RETURN",
            f"{_match(sets.LOAD_BALANCER_SOURCE_IP, 'dst,dst,src', view)} -j RETURN",
            "-j DROP",
        ),
        FILTER: access,
        OUT_FILTER: access,
    }
