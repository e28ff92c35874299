import pytest

from netsim.model.errors import NetsimError, UsageError
from proxy.main import main, read_addresses
from proxy.options import parse_duration, parse_options

NEEDED = ["--kubeconfig", "k", "--node-name", "n"]


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("0", 0), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "1d", "30s x"])
def test_broken_durations(text: str) -> None:
    with pytest.raises(UsageError, match="no duration"):
        parse_duration(text)


def test_defaults_are_upstreams() -> None:
    config = parse_options(NEEDED).config
    assert (config.mode, config.masquerade_mark, config.detect_local_mode) == ("iptables", "0x4000", "ClusterCIDR")
    assert (config.min_sync_period_s, config.sync_period_s, config.localhost_node_ports) == (1, 30, True)
    assert config.families == (4,)


def test_flags() -> None:
    flags = ["--cluster-cidr", "10.244.0.0/16,fd00::/56", "--no-iptables-localhost-nodeports"]
    flags += [
        "--nodeport-addresses",
        "10.0.0.0/8,127.0.0.0/8",
        "--iptables-masquerade-bit",
        "3",
        "--bind-address",
        "1.2.3.4",
    ]
    options = parse_options([*NEEDED, *flags])
    assert options.node_ip == "1.2.3.4"
    assert options.config.families == (4, 6)
    assert options.config.node_port_addresses == ("10.0.0.0/8", "127.0.0.0/8")
    assert options.config.masquerade_mark == "0x8"
    assert not options.config.localhost_node_ports


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--kubeconfig and --node-name"),
        ([*NEEDED, "--ipvs-scheduler", "best"], "ipvs.scheduler"),
        ([*NEEDED, "--proxy-mode", "userspace"], "not built yet"),
        ([*NEEDED, "--cluster-cidr", "pods"], "no CIDR"),
        ([*NEEDED, "--nodeport-addresses", "x"], "no CIDR"),
        ([*NEEDED, "--bind-address", "x"], "no address"),
        ([*NEEDED, "--detect-local-mode", "Magic"], "detectLocalMode"),
        ([*NEEDED, "--iptables-masquerade-bit", "32"], "masqueradeBit"),
        ([*NEEDED, "--iptables-sync-period", "0"], "syncPeriod"),
    ],
)
def test_wrong_usage_says_what_is_wrong(flags: list[str], message: str) -> None:
    with pytest.raises(NetsimError, match=message):
        parse_options(flags)


def test_errors_are_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bind-address", "here", *NEEDED]) == 2
    assert capsys.readouterr().err.startswith("netsim-proxy: --bind-address")
    assert main(["--kubeconfig", "/nonexistent/kubeconfig", "--node-name", "n"]) == 1
    assert "/nonexistent/kubeconfig" in capsys.readouterr().err


def test_node_addresses_internal_first() -> None:
    addresses = [
        ("Hostname", "n"),
        ("ExternalIP", "192.0.2.1"),
        ("InternalIP", "172.18.0.2"),
        ("InternalIP", "fd00::2"),
    ]
    node = {"status": {"addresses": [{"type": kind, "address": address} for kind, address in addresses]}}
    assert read_addresses(node) == ("172.18.0.2", "fd00::2", "192.0.2.1")
    assert read_addresses({}) == ()
