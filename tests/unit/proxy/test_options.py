import socket
from pathlib import Path

import pytest

from netsim.model.errors import NetsimError, UsageError
from proxy.config import FamilyView, NodeView, expand_node_ports
from proxy.durations import parse_duration, render_duration
from proxy.main import add_families, choose_access, choose_addresses, main, read_addresses, warn_of_gaps
from proxy.options import parse_options

NEEDED = ["--kubeconfig", "k", "--node-name", "n"]


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("0", 0), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30s", "1m30s", "500ms", "0s", "24h0m0s", "1h0m0s", "-1s", "1.5s"])
def test_durations_are_written_as_go_does(text: str) -> None:
    assert render_duration(parse_duration(text)) == text


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
    flags = ["--cluster-cidr", "10.244.0.0/16,fd00::/56", "--iptables-localhost-nodeports=false"]
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
        ([*NEEDED, "--node-name", " "], "--hostname-override: empty"),
        ([*NEEDED, "--masquerade-all=perhaps"], "--masquerade-all: .* neither true nor false"),
        ([*NEEDED, "--healthz-bind-address", "0.0.0.0:http"], "no IP:port"),
        ([*NEEDED, "--oom-score-adj", "2000"], "oomScoreAdj"),
        ([*NEEDED, "--cluster-cidr", "10.0.0.0/8,11.0.0.0/8"], "not one CIDR for each family"),
        ([*NEEDED, "--iptables-min-sync-period", "40s"], "minSyncPeriod"),
        ([*NEEDED, "--conntrack-min", "many"], "--conntrack-min: .* no number"),
        ([*NEEDED, "--conntrack-min", "-1"], "conntrack.min: must be greater than or equal to 0"),
        ([*NEEDED, "--conntrack-udp-timeout=-1s"], "conntrack.udpTimeout: must be greater"),
        ([*NEEDED, "--ipvs-scheduler", "best"], "ipvs.scheduler"),
        ([*NEEDED, "--proxy-mode", "userspace"], "is no proxy mode"),
        ([*NEEDED, "--cluster-cidr", "pods"], "no CIDR"),
        ([*NEEDED, "--nodeport-addresses", "x"], "no CIDR"),
        ([*NEEDED, "--bind-address", "x"], "no address"),
        ([*NEEDED, "--detect-local-mode", "Magic"], "detectLocalMode"),
        ([*NEEDED, "--detect-local-mode", "BridgeInterface"], "bridgeInterface: .* no name of an interface"),
        (
            [*NEEDED, "--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=a/b"],
            "interfaceNamePrefix",
        ),
        ([*NEEDED, "--iptables-masquerade-bit", "32"], "masqueradeBit"),
        ([*NEEDED, "--iptables-sync-period", "0"], "syncPeriod"),
    ],
)
def test_wrong_usage_says_what_is_wrong(flags: list[str], message: str) -> None:
    with pytest.raises(NetsimError, match=message):
        parse_options(flags)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"IPv4: clusterCIDR", "IPv6: clusterCIDR"}),
        (["--cluster-cidr", "10.244.0.0/16"], {"IPv6: clusterCIDR"}),
        (["--cluster-cidr", "10.244.0.0/16,fd00::/56"], set()),
        (["--detect-local-mode", "NodeCIDR"], set()),  # the Node object may have it later
        (["--detect-local-mode", "NodeCIDR", "--nodeport-addresses", "primary"], set()),
        (["--detect-local-mode", "NodeCIDR", "--nodeport-addresses", "172.0.0.0/8"], {"IPv6: nodePortAddresses"}),
        (["--detect-local-mode", "NodeCIDR", "--nodeport-addresses", "localhost"], {"IPv6: nodePortAddresses"}),
        (
            ["--detect-local-mode", "NodeCIDR", "--nodeport-addresses", "localhost", "--proxy-mode", "nftables"],
            {"IPv4: nodePortAddresses", "IPv6: nodePortAddresses"},
        ),
    ],
)
def test_what_options_leave_open_is_said(
    flags: list[str], expected: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    addresses = ("172.18.0.2", "fd00::2")
    warn_of_gaps(add_families(parse_options([*NEEDED, *flags]).config, addresses), "node-1", addresses)
    assert {" ".join(record.getMessage().split()[:2]) for record in caplog.records} == expected


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


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("0.0.0.0", ("172.18.0.2", "fd00::2", "192.0.2.1")),
        ("172.18.0.9", ("172.18.0.9", "fd00::2")),
        ("fd00::9", ("fd00::9", "172.18.0.2", "192.0.2.1")),
    ],
)
def test_a_bind_address_is_for_its_own_family(bind: str, expected: tuple[str, ...]) -> None:
    options = parse_options([*NEEDED, "--bind-address", bind, "--cluster-cidr", "10.1.0.0/16,fd00:1::/56"])
    addresses = [
        {"type": "InternalIP", "address": "172.18.0.2"},
        {"type": "InternalIP", "address": "fd00::2"},
        {"type": "ExternalIP", "address": "192.0.2.1"},
    ]
    assert choose_addresses(options, {"status": {"addresses": addresses}}) == expected


def test_the_node_is_this_host_unless_said() -> None:
    assert parse_options(["--kubeconfig", "k"]).node_name == socket.gethostname().lower()
    assert parse_options(["--hostname-override", "Node-A", "--kubeconfig", "k"]).node_name == "node-a"


def test_flags_as_go_writes_them() -> None:
    options = parse_options(["--kubeconfig=k", "--node-name=n", "--masquerade-all", "--v=4", "--vmodule=a=2"])
    assert options.config.masquerade_all
    assert options.verbosity == 4
    assert parse_options([*NEEDED, "-v"]).verbosity == 2


def test_addresses_of_the_servers() -> None:
    def addresses(*flags: str) -> tuple[str, str]:
        config = parse_options([*NEEDED, *flags]).config
        return config.healthz_bind_address, config.metrics_bind_address

    assert addresses() == ("0.0.0.0:10256", "127.0.0.1:10249")
    assert addresses("--bind-address", "fd00::2") == ("[::]:10256", "[::1]:10249")
    assert addresses("--bind-address", "::", "--metrics-bind-address", "[::]:1") == ("[::]:10256", "[::]:1")
    assert addresses("--healthz-bind-address", "", "--metrics-port", "0") == ("", "")
    assert addresses("--healthz-bind-address", "172.18.0.2", "--healthz-port", "80")[0] == "172.18.0.2:80"


def test_no_rate_is_the_default_rate() -> None:
    assert parse_options(NEEDED).request_rate == (5, 10)
    assert parse_options([*NEEDED, "--kube-api-qps", "0", "--kube-api-burst", "0"]).request_rate == (5, 10)
    assert parse_options([*NEEDED, "--kube-api-qps", "-1"]).request_rate[0] == -1


def test_sync_periods_belong_to_modes() -> None:
    flags = [*NEEDED, "--iptables-sync-period", "10s", "--ipvs-sync-period", "20s", "--iptables-min-sync-period", "0"]
    iptables = parse_options(flags).config
    assert (iptables.sync_period_s, iptables.min_sync_period_s) == (10, 0)
    ipvs = parse_options([*flags, "--proxy-mode", "ipvs"]).config
    assert (ipvs.sync_period_s, ipvs.min_sync_period_s) == (20, 0)


def test_a_file_goes_before_flags(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "config"
    head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    file.write_text(f"{head}clusterCIDR: 10.1.0.0/16\nhostnameOverride: from-file\n")
    options = parse_options(["--config", str(file), "--cluster-cidr", "10.2.0.0/16", "--master", "https://m", "-v"])
    assert options.config.cluster_cidrs == ("10.1.0.0/16",)
    assert (options.node_name, options.master, options.verbosity) == ("from-file", "https://m", 2)
    assert "--cluster-cidr count for nothing" in caplog.text
    assert parse_options(["--config", str(file), "--hostname-override", "flag"]).node_name == "flag"


def test_the_configuration_is_written_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "config"
    flags = [*NEEDED, "--masquerade-all", "--conntrack-udp-timeout", "30s", "--iptables-sync-period", "1m"]
    assert main([*flags, "--write-config-to", str(file)]) == 0
    assert parse_options(["--config", str(file), "--node-name", "n"]).config == parse_options(flags).config


def test_where_the_api_server_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--kubeconfig"):
        choose_access(parse_options([]))
    assert choose_access(parse_options(["--master", "https://m:6443/"])).server == "https://m:6443"
    file = tmp_path / "kubeconfig"
    file.write_text(
        "kind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 'https://k', tls-server-name: k.example}}]\n"
        "users: [{name: u, user: {token: secret}}]\n"
    )
    access = choose_access(parse_options(["--kubeconfig", str(file), "--master", "https://m"]))
    assert (access.server, access.token, access.server_name) == ("https://m", "secret", "")
    assert choose_access(parse_options(["--kubeconfig", str(file)])).server_name == "k.example"


def test_keywords_of_node_port_addresses() -> None:
    flags = ["--nodeport-addresses", "primary,10.0.0.0/8,localhost,primary", "--cluster-cidr", "10.1.0.0/16,fd00::/56"]
    config = parse_options([*NEEDED, *flags]).config
    expanded = expand_node_ports(config, ("172.18.0.2", "fd00::2", "172.18.0.3"))
    assert expanded.node_port_addresses == ("172.18.0.2/32", "fd00::2/128", "10.0.0.0/8", "127.0.0.0/8", "::1/128")
    assert expand_node_ports(expanded, ("1.2.3.4",)) is expanded
    everywhere = parse_options([*NEEDED, "--nodeport-addresses", "all"]).config
    assert FamilyView(expand_node_ports(everywhere, ()), NodeView("n"), 4).node_port_ips() is None
