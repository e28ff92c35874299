"""The packet filter's text, literally, and what is read back from nft's listings."""

from cni import nat
from cni.attachment import Attachment
from cni.config import PortMapping

ONE = Attachment("net", "c1", "eth0")
CIDRS = ["10.1.2.2/24", "fd00::2/64"]
LISTING = """table inet netsim-cni {
        map hostport4 {
                type inet_proto . inet_service : verdict
                elements = { tcp . 8080 comment "net eth0 c1" : goto hp-391b6629-d86a89ae19e1,
                             udp . 53 : goto hp-391b6629-0123456789ab }
        }
}
"""


def test_masquerading_costs_an_element_for_each_address() -> None:
    chain = nat.masquerade_chain("net", ["10.1.2.0/24", "fd00::/64"])
    assert nat.plan_masquerade_elements(ONE, CIDRS) == (
        f'add element inet netsim-cni masquerade4 {{ 10.1.2.2 comment "net eth0 c1" : goto {chain} }}\n'
        f'add element inet netsim-cni masquerade6 {{ fd00::2 comment "net eth0 c1" : goto {chain} }}\n'
    )
    assert nat.plan_masquerade_chain("net", CIDRS) == (
        f"add chain inet netsim-cni {chain}\n"
        f"flush chain inet netsim-cni {chain}\n"
        f"add rule inet netsim-cni {chain} ip daddr 10.1.2.0/24 return\n"
        f"add rule inet netsim-cni {chain} ip6 daddr fd00::/64 return\n"
        f"add rule inet netsim-cni {chain} ip daddr 224.0.0.0/4 return\n"
        f"add rule inet netsim-cni {chain} ip6 daddr ff00::/8 return\n"
        f'add rule inet netsim-cni {chain} masquerade comment "network net"\n'
    )


def test_port_mappings_by_family_and_host_address() -> None:
    mappings = [
        PortMapping(8080, 80, "tcp", ""),
        PortMapping(53, 5353, "udp", "127.0.0.1"),
        PortMapping(54, 54, "tcp", "any6"),
    ]
    chain = ONE.port_chain
    assert nat.plan_port_mappings(ONE, CIDRS, mappings, snat=True).splitlines() == [
        f'add chain inet netsim-cni {chain} {{ comment "net eth0 c1" ; }}',
        f"flush chain inet netsim-cni {chain}",
        f"add rule inet netsim-cni {chain} ip saddr {{ 10.1.2.0/24, 127.0.0.0/8 }} meta mark set meta mark | 0x2000",
        f"add rule inet netsim-cni {chain} meta nfproto ipv4 tcp dport 8080 dnat ip to 10.1.2.2:80",
        f"add rule inet netsim-cni {chain} ip daddr 127.0.0.1 udp dport 53 dnat ip to 10.1.2.2:5353",
        f"add rule inet netsim-cni {chain} ip6 saddr {{ fd00::/64 }} meta mark set meta mark | 0x2000",
        f"add rule inet netsim-cni {chain} meta nfproto ipv6 tcp dport 8080 dnat ip6 to [fd00::2]:80",
        f"add rule inet netsim-cni {chain} meta nfproto ipv6 tcp dport 54 dnat ip6 to [fd00::2]:54",
        f'add element inet netsim-cni hostport4 {{ tcp . 8080 comment "net eth0 c1" : goto {chain} }}',
        f'add element inet netsim-cni hostip4 {{ 127.0.0.1 . udp . 53 comment "net eth0 c1" : goto {chain} }}',
        f'add element inet netsim-cni hostport6 {{ tcp . 8080 comment "net eth0 c1" : goto {chain} }}',
        f'add element inet netsim-cni hostport6 {{ tcp . 54 comment "net eth0 c1" : goto {chain} }}',
    ]


def test_without_snat_nothing_is_marked() -> None:
    assert "mark" not in nat.plan_port_mappings(ONE, CIDRS, [PortMapping(1, 1, "tcp", "")], snat=False)


def test_a_mapping_of_the_other_family_is_skipped() -> None:
    assert nat.port_keys([PortMapping(1, 1, "tcp", "::1")], "4") == []
    assert nat.port_keys([PortMapping(1, 1, "tcp", "::1")], "6") == [("hostip6", "::1 . tcp . 1")]


def test_listings_are_read_with_and_without_comments() -> None:
    assert nat.parse_ports(LISTING) == [
        ("tcp . 8080", "hp-391b6629-d86a89ae19e1"),
        ("udp . 53", "hp-391b6629-0123456789ab"),
    ]
    assert nat.parse_ports("127.0.0.1 . udp . 53 : goto hp-1-2") == [("127.0.0.1 . udp . 53", "hp-1-2")]
    text = 'elements = { 10.1.2.2 comment "net eth0 c1" : goto masq-3-a, fd00::2 : goto masq-3-b }'
    assert nat.parse_masquerade(text) == [("10.1.2.2", "masq-3-a"), ("fd00::2", "masq-3-b")]


def test_names_fit_and_differ_by_network_container_and_interface() -> None:
    long = Attachment("n" * 200, "c" * 200, "i" * 15)
    assert len(long.veth) == len(long.ifb) + 1 == 15
    assert len(long.alias) <= 255
    assert len(long.comment) <= 120
    others = [ONE, ONE._replace(network="x"), ONE._replace(container_id="x"), ONE._replace(ifname="x")]
    assert len({a.veth for a in others}) == len({a.port_chain for a in others}) == 4


def test_network_of_an_address() -> None:
    assert nat.network_of("10.1.2.200/25") == "10.1.2.128/25"
    assert nat.network_of("fd00::1:2/64") == "fd00::/64"
