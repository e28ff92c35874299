"""sysctl, packet sockets, nft, iptables and connection tracking, each in a namespace of its own."""

import asyncio
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netsim.kernel.conntrack import ASSURED, DST_NAT, SEEN_REPLY, Conntrack, Flow
from netsim.kernel.dump import dump_namespace
from netsim.kernel.iptables import Backend, Iptables, choose_backend
from netsim.kernel.netns import Netns
from netsim.kernel.nft import Nft
from netsim.kernel.packets import open_packet_socket
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.kernel.sysctl import read_sysctl, write_sysctl, write_sysctls
from netsim.model.errors import FeatureMissing, KernelError, TimeoutExpired

pytestmark = pytest.mark.needs("root", "netns")


# --- sysctl ---


def test_sysctls_are_the_namespaces_own(ns: Netns) -> None:
    with Netns.current() as here:
        before = read_sysctl(here, "net.ipv4.ip_forward")
        write_sysctls(ns, {"net.ipv4.ip_forward": 1, "net/ipv4/conf/lo/route_localnet": "1"})
        assert read_sysctl(ns, "net/ipv4/ip_forward") == read_sysctl(ns, "net.ipv4.conf.lo.route_localnet") == "1"
        write_sysctl(ns, "net.ipv4.ip_forward", 0)
        assert read_sysctl(ns, "net.ipv4.ip_forward") == "0"
        assert read_sysctl(here, "net.ipv4.ip_forward") == before


def test_sysctls_that_are_refused(ns: Netns) -> None:
    with pytest.raises(KernelError, match=r"test: sysctl net\.ipv4\.nothing: No such file"):
        read_sysctl(ns, "net.ipv4.nothing")
    with pytest.raises(KernelError, match=r"net\.ipv4\.ip_forward=maybe: Invalid argument"):
        write_sysctl(ns, "net.ipv4.ip_forward", "maybe")
    with pytest.raises(FeatureMissing) as caught:
        read_sysctl(ns, "net.bridge.nothing")
    assert caught.value.feature == "br_netfilter"


# --- packet sockets ---


@pytest.mark.needs("packet")
def test_a_packet_socket_sees_its_interface(ns: Netns) -> None:
    with open_packet_socket(ns, "lo") as sniffer, ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sniffer.settimeout(5)
        sender.sendto(b"seen", ("127.0.0.1", 9))
        assert sniffer.recv(2048).endswith(b"seen")
    with pytest.raises(KernelError, match="test: packet socket on eth7: No such device"):
        open_packet_socket(ns, "eth7")


# --- nft ---


@pytest.fixture
def nft(ns: Netns) -> Iterator[Nft]:
    with Nft(ns) as nft:
        yield nft


@pytest.mark.needs("nft")
def test_nft_is_the_namespaces_own(nft: Nft) -> None:
    nft.run(
        "add table ip t\nadd chain ip t c { type filter hook input priority 0; }\nadd rule ip t c iifname lo accept"
    )
    assert 'iifname "lo" accept' in nft.run("list ruleset")
    kinds = [next(iter(entry)) for entry in json.loads(nft.run_json("list table ip t"))["nftables"]]
    assert kinds == ["metainfo", "table", "chain", "rule"]
    with Netns.create("other") as other, Nft(other) as empty:
        assert empty.run("list ruleset") == ""
        with pytest.raises(KernelError, match=r"[Ii]nterface"):
            empty.run("add table ip t; add chain ip t c; add rule ip t c iif nothing accept")


@pytest.mark.needs("nft")
@pytest.mark.parametrize(
    ("commands", "number", "words"),
    [
        ("list table ip nothing", 2, "No such file or directory\nlist table ip nothing"),
        ("add table ip u; add rule ip u nothing accept", 2, "Could not process rule: No such file or directory"),
        ("rubbish here", 22, "syntax error"),
        ("create table ip t; create table ip t", 17, "File exists"),
    ],
)
def test_nft_says_what_was_wrong_and_changes_nothing(nft: Nft, commands: str, number: int, words: str) -> None:
    with pytest.raises(KernelError) as caught:
        nft.run(commands)
    assert caught.value.errno == number
    assert words in caught.value.message
    assert nft.run("list ruleset") == ""


@pytest.mark.needs("nft")
@pytest.mark.parametrize(("flags", "expected"), [("", None), ("flags dormant;", ["dormant"])])
def test_a_table_as_json_and_as_text(nft: Nft, flags: str, expected: list[str] | None) -> None:
    """With a flag libnftables' own JSON has other words in its place, from memory that it has freed."""
    nft.run(
        f"table inet t {{ {flags} set s {{ type ipv4_addr; elements = {{ 10.0.0.1 }}; }};"
        "map m { type inet_service : verdict; elements = { 80 : accept }; };"
        "chain c { type filter hook input priority 0; ip saddr @s tcp dport vmap @m; }; chain d { counter drop; }; }"
    )
    listing, words = nft.list_table("inet", "t")
    items = [item for item in json.loads(listing)["nftables"] if "metainfo" not in item]
    found = {(kind, value.get("name") or value["chain"]): value for item in items for kind, value in item.items()}
    assert found["table", "t"].get("flags") == expected
    assert set(found) - {("table", "t")} == {
        *(("chain", "c"), ("rule", "c"), ("chain", "d"), ("rule", "d"), ("set", "s"), ("map", "m"))
    }
    assert found["set", "s"]["elem"] == ["10.0.0.1"]
    assert f"counter packets 0 bytes 0 drop # handle {found['rule', 'd']['handle']}" in words
    assert nft.list_tables() == [("inet", "t")]


# --- iptables ---


@pytest.fixture(params=["nft", "legacy"])
def iptables(request: pytest.FixtureRequest, ns: Netns, spawner: Spawner) -> Iterator[Iptables]:
    request.getfixturevalue("require_feature")(f"iptables-{request.param}")
    iptables = Iptables(ns, spawner, backend=request.param)
    yield iptables
    iptables.close()


def test_iptables_adds_and_keeps(iptables: Iptables) -> None:
    iptables.restore(b"*nat\n:ONE - [0:0]\n-A ONE -j RETURN\nCOMMIT\n")
    asyncio.run(iptables.restore_async(b"*nat\n:TWO - [3:4]\n-A TWO -j ONE\nCOMMIT\n"))
    saved = iptables.save("nat")
    assert "-A ONE -j RETURN" in saved
    assert "-A TWO -j ONE" in saved
    assert asyncio.run(iptables.save_async("filter")).count("-A ") == 0
    assert "-A " not in iptables.save(family=6)


def test_where_there_is_no_table_iptables_is_not_run(iptables: Iptables, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_given: object, **_named: object) -> None:
        raise AssertionError("a process was started")

    iptables.restore(b"*filter\n-A INPUT -j RETURN\nCOMMIT\n", family=6)
    monkeypatch.setattr(Spawner, "run_blocking", run)
    monkeypatch.setattr(Spawner, "run", run)
    assert iptables.save() == asyncio.run(iptables.save_async()) == ""
    with pytest.raises(AssertionError):
        iptables.save(family=6)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"-A ONE -j NOTHING", "NOTHING"),
        (b"-A NOTHING -j RETURN", "line 3 failed"),
        (b"-A ONE --rubbish", 'unknown option "--rubbish"'),
        (b"-A ONE -p tcp --dport 99999 -j ACCEPT", "invalid port"),
    ],
)
def test_iptables_quotes_the_line_it_refuses(iptables: Iptables, line: bytes, words: str) -> None:
    before = iptables.save("nat").splitlines()[1:-1]
    with pytest.raises(KernelError) as caught:
        iptables.restore(b"*nat\n:ONE - [0:0]\n" + line + b"\n-A ONE -j RETURN\nCOMMIT\n")
    assert words in caught.value.message
    assert caught.value.message.endswith(f"\n  line 3: {line.decode()}")
    assert caught.value.where == "test"
    after = [text for text in iptables.save("nat").splitlines()[1:-1] if not text.startswith("#")]
    assert "-A" not in "".join(after)
    assert len(before) in (0, len(after))


@pytest.mark.needs("iptables-legacy")
def test_namespaces_do_not_wait_for_each_others_lock(ns: Netns, spawner: Spawner) -> None:
    with Netns.create("other") as other:
        tables = [Iptables(one, spawner, backend="legacy") for one in (ns, other)]

        async def restore_often() -> None:
            text = b"*nat\n:ONE - [0:0]\n-A ONE -j RETURN\nCOMMIT\n"
            await asyncio.gather(*(one.restore_async(text) for one in tables for _ in range(10)))

        asyncio.run(restore_often())
        for one in tables:
            assert one.save("nat").count("-A ONE -j RETURN") == 1
            one.close()


OWN = """
from netsim.kernel.iptables import Iptables
from netsim.kernel.netns import Netns
from netsim.kernel.process import ProcessSpec, Spawner
with Spawner.start() as spawner:
    Iptables(Netns.current(), spawner, backend="legacy").restore(b"*nat\\n:MINE - [0:0]\\nCOMMIT\\n")
"""


@pytest.mark.needs("iptables-legacy")
def test_in_its_own_namespace_a_program_waits_for_others_who_write_tables(
    ns: Netns, spawner: Spawner, tmp_path: Path
) -> None:
    """As netsim-proxy on a node: the legacy tools read a table, change it and write it whole."""
    lock = tmp_path / "xtables.lock"
    environment = {**os.environ, "XTABLES_LOCKFILE": str(lock)}
    spec = ProcessSpec((sys.executable, "-c", OWN), netns=ns, env=environment, cwd=str(Path(__file__).parents[3]))
    tool = Iptables(ns, spawner, backend="legacy")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutExpired):
            spawner.run_blocking(spec, timeout_s=2)
        assert ":MINE" not in tool.save("nat")
    assert spawner.run_blocking(spec, timeout_s=10).returncode == 0
    assert ":MINE" in tool.save("nat")
    tool.close()


@pytest.mark.needs("nft", "iptables-nft")
def test_the_backend_is_chosen_by_asking_and_that_changes_nothing(ns: Netns, spawner: Spawner, nft: Nft) -> None:
    chosen: Backend = choose_backend(spawner, ns)
    assert chosen == Iptables(ns, spawner).backend == "nft"
    assert nft.run("list ruleset") == ""


CANARY = b"*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
RULES = b"*filter\n-A INPUT -s 192.0.2.1 -j DROP\n-A INPUT -s 192.0.2.2 -j DROP\nCOMMIT\n"
ONE_RULE = b"*filter\n-A INPUT -s 192.0.2.1 -j DROP\nCOMMIT\n"


@pytest.mark.needs("iptables-nft", "iptables-legacy")
@pytest.mark.parametrize(
    ("legacy", "nft", "chosen"),
    [
        (b"", RULES, "nft"),
        (RULES, b"", "legacy"),
        (RULES, ONE_RULE, "legacy"),
        (ONE_RULE, RULES, "nft"),
        (CANARY, RULES, "legacy"),
        (RULES, CANARY, "nft"),
        (CANARY + RULES, CANARY, "nft"),
    ],
)
def test_the_backend_is_that_which_wrote_what_is_there(ns: Netns, legacy: bytes, nft: bytes, chosen: str) -> None:
    """As on a node where a kubelet and others were before us."""
    with Spawner.start() as spawner:  # for which nothing was chosen yet
        for backend, text in (("legacy", legacy), ("nft", nft)):
            if text:
                Iptables(ns, spawner, backend=backend).restore(text)  # type: ignore[arg-type]
        assert Iptables(ns, spawner).backend == chosen


# --- connection tracking ---

DNAT = """
add table ip t
add chain ip t c { type nat hook output priority -100; }
add rule ip t c meta l4proto { tcp, udp } th dport 81 ct mark set 0x4 dnat to 127.0.0.1:80
"""


@pytest.fixture
def tracked(ns: Netns, nft: Nft) -> Iterator[Conntrack]:
    """A TCP connection and an unanswered datagram to 127.0.0.1:81, both sent on to port 80."""
    nft.run(DNAT)
    with (
        ns.socket(socket.AF_INET, socket.SOCK_STREAM) as server,
        ns.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
        ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp_server,
        ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        Conntrack(ns) as conntrack,
    ):
        server.bind(("127.0.0.1", 80))
        server.listen()
        udp_server.bind(("127.0.0.1", 80))
        client.connect(("127.0.0.1", 81))
        udp.sendto(b"x", ("127.0.0.1", 81))
        yield conntrack


@pytest.mark.needs("nft", "conntrack")
def test_flows_say_what_was_translated(tracked: Conntrack) -> None:
    (tcp,) = tracked.flows(protocol=socket.IPPROTO_TCP)
    (udp,) = tracked.flows(family=socket.AF_INET, protocol=socket.IPPROTO_UDP)
    assert tcp.tcp_state == "ESTABLISHED"
    assert tcp.mark == 4
    assert tcp.status & (SEEN_REPLY | ASSURED | DST_NAT) == SEEN_REPLY | ASSURED | DST_NAT
    assert (tcp.original.destination_port, tcp.reply.source_port) == (81, 80)
    assert tcp.original.source_port == tcp.reply.destination_port
    assert not udp.status & SEEN_REPLY
    assert str(udp).startswith("udp      17 ")
    assert " dport=81 [UNREPLIED] src=127.0.0.1 dst=127.0.0.1 sport=80 " in str(udp)
    assert tracked.flows(family=socket.AF_INET6) == []


@pytest.mark.needs("nft", "conntrack")
def test_flows_are_deleted_once(tracked: Conntrack, ns: Netns) -> None:
    (udp,) = tracked.flows(protocol=socket.IPPROTO_UDP)
    assert tracked.delete(udp) is True
    assert tracked.delete(udp) is False
    with ns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in range(2000, 2200):
            sender.sendto(b"x", ("127.0.0.2", port))
    flows: list[Flow] = tracked.flows()
    assert len(flows) == 201
    assert tracked.delete_all([*flows, udp]) == 201
    assert tracked.flows() == []


# --- the dump ---


@pytest.mark.needs("nft", "conntrack", "command:ip")
def test_a_dump_shows_all_that_decides(tracked: Conntrack, ns: Netns, spawner: Spawner) -> None:
    text = asyncio.run(dump_namespace(ns, spawner))
    for words in ("--- links\n1: lo:", "local 127.0.0.0/8", "dnat to 127.0.0.1:80", "tcp      6 ", "[UNREPLIED]"):
        assert words in text
    assert "--- ipsets" not in text  # what is empty is left out


@pytest.mark.needs("nft", "iptables-nft")
def test_a_dump_shows_tables_of_iptables_once_and_in_its_words(
    ns: Netns, spawner: Spawner, capfd: pytest.CaptureFixture[str]
) -> None:
    Iptables(ns, spawner, backend="nft").restore(b"*nat\n-A POSTROUTING -o lo -j MASQUERADE\nCOMMIT\n")
    with Nft(ns) as nft:
        nft.run("table ip own { chain mine { counter; }; }")
    capfd.readouterr()
    text = asyncio.run(dump_namespace(ns, spawner))
    assert text.count("-A POSTROUTING -o lo -j MASQUERADE") == 1
    assert "chain mine" in text
    assert "chain POSTROUTING" not in text
    assert capfd.readouterr().err == ""  # of libnftables, about extensions that it can't show
