"""What kube-proxy would write for the services of `tests.bench.services`: all of it, and one endpoint's change."""

from proxy.config import FamilyView, NodeView, ProxyConfig
from proxy.iptables.plan import IptablesDialect
from proxy.servicemap import ServiceMap
from tests.bench.services import PORT, endpoints_of, make_service, make_slice

Texts = tuple[str, list[str]]  # everything; one change after the other


def make_nft(services: int, changes: int, changed: str) -> Texts:
    """kube-proxy's nftables mode: a chain for each service and each endpoint (pkg/proxy/nftables/proxier.go).

    A change: the new endpoint's chain, and the service's chain anew.
    """
    out = [
        "table ip kube-proxy {",
        "chain mark-for-masquerade { meta mark set meta mark or 0x4000; }",
        "chain masquerading { meta mark & 0x4000 == 0 return; meta mark set meta mark ^ 0x4000;",
        "masquerade fully-random; }",
        "set cluster-ips { type ipv4_addr; }",
        "map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }",
    ]
    elements, ips = [], []
    for number in range(services):
        name, ip = _name(number), make_service(number)["spec"]["clusterIP"]
        out += [_endpoint_chain(name, endpoint) for endpoint in endpoints_of(number)]
        out.append(f"chain service-{name} {{ {_service_rules(name, ip, endpoints_of(number))} }}")
        elements.append(f"{ip} . tcp . {PORT} : goto service-{name}")
        ips.append(ip)
    out += [
        "chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }",
        "chain nat-prerouting { type nat hook prerouting priority -100; jump services; }",
        "chain nat-output { type nat hook output priority -100; jump services; }",
        "chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }",
        "}",
        f"add element ip kube-proxy cluster-ips {{ {', '.join(ips)} }}",
        f"add element ip kube-proxy service-ips {{ {', '.join(elements)} }}",
    ]
    return "\n".join(out) + "\n", [_nft_change(number, changed) for number in range(changes)]


def _nft_change(number: int, changed: str) -> str:
    name, ip = _name(number), make_service(number)["spec"]["clusterIP"]
    lines = ["table ip kube-proxy {", _endpoint_chain(name, changed), "}", f"flush chain ip kube-proxy service-{name}"]
    rules = _service_rules(name, ip, (*endpoints_of(number), changed)).rstrip(";").split("; ")
    lines += [f"add rule ip kube-proxy service-{name} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


def _name(number: int) -> str:
    return f"ABCDEFGH-bench/svc-{number:05d}/tcp/p80"


def _endpoint_chain(name: str, endpoint: str) -> str:
    rules = f"ip saddr {endpoint} jump mark-for-masquerade; meta l4proto tcp dnat to {endpoint}:{PORT};"
    return f"chain endpoint-{name}__{endpoint}/{PORT} {{ {rules} }}"


def _service_rules(name: str, ip: str, endpoints: tuple[str, ...]) -> str:
    choice = ", ".join(f"{n} : goto endpoint-{name}__{endpoint}/{PORT}" for n, endpoint in enumerate(endpoints))
    mark = f"ip daddr {ip} tcp dport {PORT} ip saddr != 10.244.0.0/16 jump mark-for-masquerade"
    return f"{mark}; numgen random mod {len(endpoints)} vmap {{ {choice} }};"


def make_iptables(services: int, changes: int, changed: str, config: ProxyConfig) -> Texts:
    """kube-proxy's iptables rules, and partial syncs as upstream writes them: the top-level chains whole.

    Made by our own dialect, whose chains and rules are upstream's; only its partial sync leaves out more.
    """
    view = FamilyView(config, NodeView("node-1", ("172.18.0.2",)), 4)
    service_map = ServiceMap()
    for number in range(services):
        service_map.update_service(None, make_service(number))
        service_map.update_slice(None, make_slice(number))
    service_map.take()
    dialect = IptablesDialect()
    full = dialect.plan_full(service_map.snapshot(), view, {})
    heads = [line for line in full.text.splitlines() if line.startswith((":KUBE-SERVICES", "-A KUBE-SERVICES"))]
    at = heads.index(":KUBE-SERVICES - [0:0]", 1)  # the first is filter's
    texts, state = [], full.state
    for number in range(changes):
        service_map.update_slice(make_slice(number), make_slice(number, (changed,)))
        found = service_map.take()
        plan = dialect.plan_changes(service_map.snapshot(), found, state, view)
        lines, state = plan.text.splitlines(), plan.state
        texts.append("\n".join([lines[0], *heads[at:], *lines[1:], ""]))
    return full.text, texts
