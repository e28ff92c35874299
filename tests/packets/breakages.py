"""Networks broken on purpose: what is done to each, and what trace must say of it. Data for `test_broken_networks`.

One table, and so all of it in one file.
"""

from dataclasses import dataclass

from tests.packets.world import EXTERNAL

CLIENT, WEB, BESIDE = "pod/{ns}/client", "pod/{ns}/web", "pod/{ns}/beside"


@dataclass(frozen=True)
class Breakage:
    """What is broken, how, and what trace must say. Texts may have {names} of `World.words`."""

    name: str
    commands: tuple[tuple[str, str], ...]  # place, shell command
    source: str
    target: str
    outcome: str
    place: str
    cause: str  # a regular expression
    protocol: str = "tcp"
    size: int = 0
    network: str = ""  # only in this pod network
    mode: str = ""  # only in this proxy mode


N1, N2 = "node/node-1", "node/node-2"
TO_WEB = WEB + ":8080"

BREAKAGES = (
    Breakage(
        "route to another node's pods missing",
        ((N1, "ip route del {web_cidr}"),),
        CLIENT,
        TO_WEB,
        "no route",
        "fabric",
        "no route to {web_ip}",
    ),
    Breakage(
        "blackhole route",
        ((N1, "ip route replace blackhole {web_cidr}"),),
        CLIENT,
        TO_WEB,
        "no route",
        N1,
        "blackhole {web_cidr}",
    ),
    Breakage(
        "route of type prohibit",
        ((N1, "ip route replace prohibit {web_cidr}"),),
        CLIENT,
        TO_WEB,
        "no route",
        N1,
        "prohibit {web_cidr}",
    ),
    Breakage(
        "route to the wrong node",
        (
            (N1, "ip route replace {web_cidr} via {node3_ip} dev eth0 onlink"),
            ("node/node-3", "ip route replace {web_cidr} via {node1_ip} dev eth0 onlink"),
        ),
        CLIENT,
        TO_WEB,
        "dropped",
        "node/node-[13]",
        "TTL ran out",
    ),
    Breakage(
        "the client's address is the receiving node's own, too",
        ((N2, "ip address add {client_ip}/32 dev lo"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N2,
        "martian source: {client_ip} is an address of its own",
    ),
    Breakage(
        "strict reverse path filter where the answer goes another way",
        ((N2, "sysctl -qw net.ipv4.conf.all.rp_filter=1; ip route replace {client_cidr} dev cni0"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N2,
        "(?i)reverse path filter",
    ),
    Breakage(
        "forwarding off",
        ((N2, "sysctl -qw net.ipv4.ip_forward=0"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N2,
        r"net\.ipv4\.ip_forward is 0",
    ),
    Breakage(
        "iptables drops in a node's FORWARD",
        ((N2, "iptables -I FORWARD 1 -p tcp --dport 8080 -j DROP"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N2,
        "ip filter FORWARD: -A FORWARD -p tcp .*--dport 8080 -j DROP",
    ),
    Breakage(
        "policy of FORWARD is drop",
        ((N2, "iptables -P FORWARD DROP; iptables -F FORWARD"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N2,
        "ip filter FORWARD: policy drop",
    ),
    Breakage(
        "legacy iptables drops beside nftables",
        ((N2, "iptables-legacy -I FORWARD 1 -p tcp --dport 8080 -j DROP"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N2,
        "FORWARD.* -j DROP",
    ),
    Breakage(
        "a firewall's nft table drops what the target answers",
        ((WEB, "nft 'table inet fw {{ chain out {{ type filter hook output priority 0; tcp sport 8080 drop; }}; }}'"),),
        CLIENT,
        TO_WEB,
        "dropped",
        WEB,
        "inet fw out: tcp sport .* drop",
    ),
    Breakage(
        "a rule of the target rejects",
        (
            (
                WEB,
                "nft 'table inet fw {{ chain in {{ type filter hook input priority 0; "
                "tcp dport 8080 reject with tcp reset; }}; }}'",
            ),
        ),
        CLIENT,
        TO_WEB,
        "rejected",
        WEB,
        "inet fw in: tcp dport .* reject",
    ),
    Breakage(
        "the source's own output drops",
        ((CLIENT, "iptables -I OUTPUT -p tcp --dport 8080 -j DROP"),),
        CLIENT,
        TO_WEB,
        "dropped",
        CLIENT,
        "ip filter OUTPUT: -A OUTPUT .*-j DROP",
    ),
    Breakage(
        "bridged answers pass no rules: br_netfilter off",
        ((N1, "sysctl -qw net.bridge.bridge-nf-call-iptables=0"),),
        CLIENT,
        "svc/{ns}/beside:80",
        "dropped",
        CLIENT,
        "answer came from .*bridge-nf-call-iptables is 0 on node/node-1",
    ),
    Breakage(
        "nobody listens",
        (),
        CLIENT,
        WEB + ":9999",
        "refused",
        WEB,
        r"nobody listens on {web_ip}:9999/tcp",
    ),
    Breakage(
        "nobody listens, UDP through a Service",
        (),
        CLIENT,
        "svc/{ns}/deaf:81",
        "refused",
        WEB,
        r"nobody listens on {web_ip}:9998/udp",
        protocol="udp",
    ),
    Breakage(
        "a Service without endpoints",
        (),
        CLIENT,
        "svc/{ns}/nobody:80",
        "rejected",
        N1,
        "has no endpoints|reject",
    ),
    Breakage(
        "Service rules flushed (iptables)",
        ((N1, "iptables -t nat -F KUBE-SERVICES"),),
        CLIENT,
        "svc/{ns}/web:80",
        "no route",
        "fabric",
        "no route to {web_service}",
        mode="iptables",
    ),
    Breakage(
        "Service rules flushed (nftables)",
        ((N1, "nft flush ruleset"),),
        CLIENT,
        "svc/{ns}/web:80",
        "no route",
        "fabric",
        "no route to {web_service}",
        mode="nftables",
    ),
    Breakage(
        "link of a node down",
        ((N2, "ip link set eth0 down"),),
        CLIENT,
        TO_WEB,
        "dropped",
        "fabric",
        "no port that is up leads to .*, which is eth0 of node/node-2; it has no carrier",
    ),
    Breakage(
        "link of the target down",
        ((WEB, "ip link set eth0 down"),),
        CLIENT,
        TO_WEB,
        "no route|dropped",
        N2,
        "carrier|no neighbour answers|no port that is up",
    ),
    Breakage(
        "link of the source down",
        ((CLIENT, "ip link set eth0 down"),),
        CLIENT,
        TO_WEB,
        "no route",
        CLIENT,
        "no route to {web_ip}|unreachable",
    ),
    Breakage(
        "stale neighbour: the pod's link address is an old one",
        ((N2, "ip neighbour replace {web_ip} lladdr 02:00:00:00:00:99 dev cni0 nud permanent"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N2,
        "02:00:00:00:00:99",
    ),
    Breakage(
        "stale neighbour between nodes",
        ((N1, "ip neighbour replace {node2_ip} lladdr 02:00:00:00:00:98 dev eth0 nud permanent"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N1,
        "02:00:00:00:00:98",
        network="routes",
    ),
    Breakage(
        "no such pod any more: nobody has the address",
        (),
        CLIENT,
        "{unused_ip}:80",
        "no route",
        N2,
        "no neighbour answers for {unused_ip}",
    ),
    Breakage(
        "the pod's default route leads nowhere",
        ((CLIENT, "ip route replace default via {wrong_gateway} dev eth0"),),
        CLIENT,
        TO_WEB,
        "no route",
        CLIENT,
        "no neighbour answers for {wrong_gateway}",
    ),
    Breakage(
        "the target has no way back",
        ((WEB, "ip route del default"),),
        CLIENT,
        TO_WEB,
        "no route",
        WEB,
        "no route back to {client_ip}",
    ),
    Breakage(
        "masquerading missing: an outside host knows no way back to pods",
        ((N1, "nft delete table ip netsim-node"),),
        CLIENT,
        EXTERNAL + ":7",
        "no route|dropped",
        "fabric|host/external",
        "no route.* to {client_ip}",
    ),
    Breakage(
        "hairpin off: a pod can't reach itself by its Service",
        (
            (
                N1,
                "for port in $(bridge -o link show | cut -d@ -f1 | cut -d: -f2); "
                "do bridge link set dev $port hairpin off; done",
            ),
        ),
        BESIDE,
        "svc/{ns}/beside:80",
        "dropped",
        N1,
        "hairpin",
    ),
    Breakage(
        "VXLAN knows no node for the link address",
        ((N1, "bridge fdb del {vxlan2_mac} dev vxlan0 dst {node2_ip}"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N1,
        "forwarding entry",
        network="vxlan",
    ),
    Breakage(
        "VXLAN: the other node has lost its device",
        ((N2, "ip link del vxlan0"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N2,
        "no VXLAN device takes network 1 at UDP port 8472",
        network="vxlan",
    ),
    Breakage(
        "VXLAN: the other node has another network identifier",
        (
            (
                N2,
                "ip link del vxlan0; ip link add vxlan0 type vxlan id 77 dstport 8472 nolearning local {node2_ip}; "
                "ip link set vxlan0 up",
            ),
        ),
        CLIENT,
        TO_WEB,
        "dropped",
        N2,
        "no VXLAN device (here has its network identifier|takes network 1)",
        network="vxlan",
    ),
    Breakage(
        "MTU: pods know no tunnel's cost",
        (
            (CLIENT, "ip link set eth0 mtu 1500"),
            (
                N1,
                "ip link set cni0 mtu 1500; for port in $(bridge -o link show | cut -d@ -f1 | cut -d: -f2); "
                "do ip link set $port mtu 1500; done",
            ),
        ),
        CLIENT,
        WEB + ":8081",
        "dropped",
        N1,
        "more than the MTU of vxlan0, 1450",
        protocol="udp",
        size=1472,
        network="vxlan",
    ),
    Breakage(
        "MTU: a narrow link between nodes",
        ((N1, "ip link set eth0 mtu 1300"),),
        CLIENT,
        WEB + ":8081",
        "dropped",
        N1,
        "more than the MTU of eth0, 1300",
        protocol="udp",
        size=1400,
        network="routes",
    ),
    Breakage(
        "traffic control drops: a queue too small for any packet",
        ((N2, "tc qdisc add dev eth0 root tbf rate 1kbit burst 10 limit 10"),),
        CLIENT,
        TO_WEB,
        "dropped",
        N2,
        "QDISC_DROP|queue of the interface",
    ),
    Breakage(
        "duplicate address: another pod has the target's",
        (
            (BESIDE, "ip address add {web_ip}/32 dev lo"),
            (N1, "ip route replace {web_ip}/32 dev cni0"),
            (N1, "ip neighbour replace {web_ip} lladdr {beside_mac} dev cni0 nud permanent"),
        ),
        CLIENT,
        WEB + ":9999",
        "refused",
        BESIDE,
        "nobody listens",
    ),
    Breakage(
        "policy routing sends the answer away",
        ((WEB, "ip rule add from {web_ip} table 77; ip route add unreachable default table 77"),),
        CLIENT,
        TO_WEB,
        "no route|dropped",
        WEB,
        "no route|unreachable",
    ),
    Breakage(
        "externalTrafficPolicy Local and no endpoint here",
        (),
        EXTERNAL,
        "node/node-1:{local_port}",
        "dropped",
        N1,
        "has no local endpoints|drop",
    ),
)
