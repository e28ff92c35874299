"""`netsim rules` and experiments in ipvs mode, which only a kernel with IPVS can show. Paths: `test_matrix`."""

from pathlib import Path

import pytest

from netsim.cluster.handle import Cluster
from netsim.experiment.files import choose_combinations, find_file, read_experiment
from netsim.experiment.report import check_folder, write_report
from netsim.experiment.run import run_experiment
from netsim.observe.rules.model import Group
from netsim.testing.lookup import cluster_ip, node_ip, node_port, pod_ip
from netsim.testing.traffic import Traffic
from tests.packets.world import HTTP_PORT
from tests.vm.test_services import two_pods

pytestmark = [pytest.mark.needs("root", "ipvs", "netem", "dummy", "sctp")]


@pytest.mark.netsim(proxy_mode="ipvs")
def test_rules_of_a_service_are_servers_sets_and_chains(cluster: Cluster, namespace: str, traffic: Traffic) -> None:
    client, _ = two_pods(cluster, namespace, type="NodePort")
    address, port = cluster_ip(cluster, "web", namespace), node_port(cluster, "web", namespace)
    endpoint = f"{pod_ip(cluster, 'web', namespace)}:{HTTP_PORT}"
    assert traffic.http_get(client, f"http://{address}/hostname", timeout_s=30.0).body == "web"

    [node] = cluster.rules(f"svc/{namespace}/web", node="node-2").nodes
    servers = {group.name: group.lines for group in node.groups if group.backend == "ipvs"}
    for entry in (f"-t {address}:80 -s rr", f"-t {node_ip(cluster, 'node-2')}:{port} -s rr"):
        assert [line.text.split(" (")[0] for line in servers[entry]] == [f"-r {endpoint} -m -w 1"]
    [asked] = servers[f"-t {address}:80 -s rr"]
    assert "(active 0, inactive 0)" not in asked.text, "the connection that was just made"

    sets = {group.name: texts(group) for group in node.groups if group.backend == "ipset"}
    assert f"{address},tcp:80" in sets["KUBE-CLUSTER-IP"]
    assert str(port) in sets["KUBE-NODE-PORT-TCP"]
    chains = {(group.table, group.name) for group in node.groups if group.kind == "chain"}
    assert {("nat", "PREROUTING"), ("nat", "KUBE-IPVS-SERVICES"), ("nat", "KUBE-IPVS-MARK-MASQ")} <= chains


def texts(group: Group) -> list[str]:
    return [line.text for line in group.lines]


@pytest.mark.parametrize("name", ["four-kinds", "client-address"])
def test_a_shipped_experiment_in_ipvs_mode(name: str, tmp_path: Path) -> None:
    experiment = choose_combinations(read_experiment(find_file(name)), {"proxyMode": ["ipvs"]})
    check_folder(tmp_path / "report")
    result = run_experiment(experiment)
    write_report(result, tmp_path / "report")
    failed = [
        f"{one.label}: {step.name}: {check.text}; found {check.found}"
        for one in result.combinations
        for step in one.steps
        for check in step.checked
        if check.held != "held"
    ]
    assert [one.status for one in result.combinations] == ["passed"] * len(experiment.combinations), "\n".join(
        [*failed, *(one.why for one in result.combinations)]
    )
