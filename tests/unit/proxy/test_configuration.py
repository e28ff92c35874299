"""KubeProxyConfiguration files."""

import pytest
import yaml

from netsim.model.errors import InputError
from proxy.config import ConntrackConfig, IpvsTimeouts, ProxyConfig
from proxy.configuration import (
    default_document,
    describe_config,
    make_config,
    parse_document,
    render_document,
    set_defaults,
)
from proxy.kernelsettings import plan_settings

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
# As kubeadm writes it into the ConfigMap kube-proxy: everything there, nothing said.
KUBEADM = (
    HEAD
    + """
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"""
)


def read(text: str) -> ProxyConfig:
    return make_config(set_defaults(parse_document(HEAD + text)))


def test_what_kubeadm_writes_means_the_defaults() -> None:
    document = set_defaults(parse_document(KUBEADM))
    assert make_config(document) == read("clusterCIDR: 10.244.0.0/16")
    expected = default_document()
    for name in ("clusterCIDR", "logging"):
        expected[name] = document[name]
    expected["clientConnection"]["kubeconfig"] = "/var/lib/kube-proxy/kubeconfig.conf"
    assert document == expected


def test_defaults_are_upstreams() -> None:
    config = read("")
    assert config == ProxyConfig(
        min_sync_period_s=1.0,
        conntrack=ConntrackConfig(max_per_core=32768, min=131072, tcp_established_s=86400, tcp_close_wait_s=3600),
    )
    assert (config.healthz_bind_address, config.metrics_bind_address) == ("0.0.0.0:10256", "127.0.0.1:10249")


def test_fields_of_a_file() -> None:
    config = read(
        yaml.safe_dump(
            {
                "mode": "iptables",
                "bindAddress": "::",
                "metricsBindAddress": "0.0.0.0",
                "iptables": {"syncPeriod": "1m", "masqueradeBit": 0, "localhostNodePorts": False},
                "conntrack": {"tcpBeLiberal": True, "maxPerCore": 0, "tcpEstablishedTimeout": "0s"},
                "nodePortAddresses": ["10.0.0.0/8"],
            }
        )
    )
    assert config.families == (6,)
    assert (config.healthz_bind_address, config.metrics_bind_address) == ("[::]:10256", "0.0.0.0:10249")
    assert (config.sync_period_s, config.masquerade_mark, config.localhost_node_ports) == (60, "0x1", False)
    assert config.tcp_be_liberal
    assert config.node_port_addresses == ("10.0.0.0/8",)
    assert plan_settings(config, 8) == {
        "net.netfilter.nf_conntrack_tcp_timeout_close_wait": 3600,
        "net.netfilter.nf_conntrack_tcp_be_liberal": 1,
    }


def test_the_connection_table_grows_with_the_processors() -> None:
    name = "net.netfilter.nf_conntrack_max"
    assert plan_settings(read(""), 2)[name] == 131072
    assert plan_settings(read(""), 16)[name] == 16 * 32768
    assert name not in plan_settings(ProxyConfig(), 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "clusterCidr: x", "clusterCidr: unknown field\n.*clusterCIDR"),
        (HEAD + "iptables: {syncperiod: 3s}", "iptables.syncperiod: unknown field\n.*syncPeriod"),
        (HEAD + "iptables: {syncPeriod: 3}", "iptables.syncPeriod: a string expected, not 3"),
        (HEAD + "iptables: {syncPeriod: soon}", 'iptables.syncPeriod: "soon" is no duration'),
        (HEAD + "conntrack: {tcpCloseWaitTimeout: 1d}", "conntrack.tcpCloseWaitTimeout: .* no duration"),
        (HEAD + "iptables: [a]", "iptables: a mapping expected"),
        (HEAD + "oomScoreAdj: true", "oomScoreAdj: a number expected"),
        (HEAD + "nodePortAddresses: [1]", "nodePortAddresses: a list of strings"),
        (HEAD + "bindAddressHardFail: 'yes'", "bindAddressHardFail: true or false expected"),
        ("kind: KubeProxyConfiguration", "apiVersion"),
        (HEAD.replace("v1alpha1", "v1"), "apiVersion"),
        (HEAD.replace("KubeProxy", "Kubelet"), "kind"),
        ("[]", "no configuration"),
        ("a: [", "broken YAML"),
        (HEAD + "mode: nftables\niptables: {}\nmode: iptables", 'the key "mode" is there twice'),
        (HEAD + "---\n" + HEAD, "one document"),
    ],
)
def test_a_wrong_file_says_where_it_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_document(text, "proxy.yaml")
    assert str(caught.value).startswith("proxy.yaml:")


@pytest.mark.parametrize(
    "config",
    [
        ProxyConfig(),
        ProxyConfig(mode="ipvs", min_sync_period_s=0.5, sync_period_s=90, ipvs_scheduler="sh", ipvs_strict_arp=True),
        ProxyConfig(mode="ipvs", ipvs_exclude_cidrs=("10.0.0.0/8",), ipvs_timeouts=IpvsTimeouts(900, 60, 0.5)),
        ProxyConfig(
            families=(4, 6),
            cluster_cidrs=("10.0.0.0/8", "fd00::/48"),
            masquerade_bit=3,
            masquerade_all=True,
            node_port_addresses=("127.0.0.0/8",),
            tcp_be_liberal=True,
            healthz_bind_address="1.2.3.4:5",
        ),
    ],
)
def test_what_configz_shows_is_a_configuration_of_that_proxy(config: ProxyConfig) -> None:
    document = describe_config(config)
    assert make_config(document) == config
    assert parse_document(render_document(document)) == document


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("{excludeCIDRs: [10.0.0.0]}", 'ipvs.excludeCIDRs: "10.0.0.0" is no CIDR'),
        ("{tcpTimeout: -1s}", "ipvs.tcpTimeout: -1 s is not in"),
        ("{udpTimeout: 10000h}", "ipvs.udpTimeout: 36000000 s is not in"),
    ],
)
def test_ipvs_options_are_checked(fields: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(f"mode: ipvs\nipvs: {fields}\n")
