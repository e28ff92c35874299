"""Which way a container runs, what it listens on, its environment and its files."""

from typing import Any

import pytest

from netsim.kubelet.builtin.agnhost import FlagError, Listen, parse_duration, plan_agnhost, plan_responder
from netsim.kubelet.environment import ConfigError, PodFacts, expand, plan_environment, plan_service_variables
from netsim.kubelet.files import Resolver, choose_hostname, parse_resolver, plan_resolver, render_hosts
from netsim.kubelet.images import choose_way, image_base
from netsim.kubelet.volumes import plan_mounts, plan_volumes
from netsim.model.config import ClusterConfig
from netsim.model.objects import Object
from tests.unit.kubelet.make import make_container, make_pod

CONFIG_MAPS = {"settings": {"data": {"color": "blue", "size": "big"}}}
FACTS = PodFacts(("10.244.0.5",), ("172.18.0.2", "fd01::2"), CONFIG_MAPS.get)


@pytest.mark.parametrize(
    ("image", "command", "args", "expected"),
    [
        ("registry.k8s.io/e2e-test-images/agnhost:2.53", [], [], "netsim-builtin://agnhost-pause"),
        ("agnhost", [], ["netexec", "--http-port=80"], "netsim-builtin://agnhost-netexec"),
        ("any", ["/agnhost", "--v=2", "serve-hostname"], [], "netsim-builtin://agnhost-serve-hostname"),
        ("agnhost", ["/agnhost", "connect", "x:1"], [], "netsim-process://agnhost-connect"),
        ("agnhost", ["sh", "-c", "true"], [], "netsim-process://sh"),
        ("registry.k8s.io/pause:3.9", [], [], "netsim-builtin://pause"),
        ("nginx:1.27", [], ["-g", "daemon off;"], "netsim-builtin://nginx"),
        ("nginx", ["/bin/sleep", "1"], [], "netsim-process://sleep"),
        ("busybox", [], ["sleep", "3600"], "netsim-process://sleep"),
        ("localhost:5000/team/redis@sha256:ab", [], ["--port", "1"], "netsim-builtin://responder-for-redis"),
    ],
)
def test_the_way_a_container_runs(image: str, command: list[str], args: list[str], expected: str) -> None:
    assert choose_way({"image": image}, command, args).image_id == expected


def test_image_base() -> None:
    assert image_base("registry.k8s.io:5000/e2e/agnhost:2.53@sha256:00") == "agnhost"


def test_netexec_listens_on_its_flags() -> None:
    plan = plan_agnhost("netexec", ["--http-port=80", "--udp-port", "81", "--delay-shutdown=7"], {})
    assert plan.listens == (Listen("TCP", 80, "http"), Listen("UDP", 81, "udp"))
    assert plan.linger_s == 7
    assert plan_agnhost("netexec", ["--udp-port=-1"], {}).listens == (Listen("TCP", 8080, "http"),)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("netexec", ["--nonsense=1"]),
        ("netexec", ["--http-port=x"]),
        ("netexec", ["--sctp-port=9"]),
        ("serve-hostname", ["--tcp"]),
        ("netexec", ["stray"]),
        ("netexec", ["--http-port"]),
    ],
)
def test_bad_flags_are_refused(command: str, arguments: list[str]) -> None:
    with pytest.raises(FlagError):
        plan_agnhost(command, arguments, {})


def test_serve_hostname() -> None:
    plan = plan_agnhost("serve-hostname", ["--http=false", "--tcp", "--udp"], {})
    assert plan.listens == (Listen("TCP", 9376, "tcp"), Listen("UDP", 9376, "udp"))


def test_porter_takes_its_ports_from_the_environment() -> None:
    plan = plan_agnhost("porter", [], {"SERVE_PORT_80": "<a>", "OTHER": "x"})
    assert plan.listens == (Listen("TCP", 80, "http"),)
    assert plan.options["values"] == {"80": "<a>"}


def test_a_responder_listens_on_every_declared_port_and_a_page_on_80_too() -> None:
    container = make_container(ports=[{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 6379}])
    assert plan_responder("responder", container, "redis").listens == (
        Listen("UDP", 53, "udp"),
        Listen("TCP", 6379, "tcp"),
    )
    assert Listen("TCP", 80, "tcp") in plan_responder("page", container, "nginx").listens


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("1s", 1), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["1", "s", "1x", "-1s", "1s x"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(FlagError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)-$(B)", "1-2"),
        ("$(C)", "$(C)"),
        ("$$(A)", "$(A)"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("100$", "100$"),
        ("$$$(A)", "$1"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expanded


def environment(*variables: Object, **extra: Any) -> dict[str, str]:
    pod = make_pod(metadata={"labels": {"app": "web"}})
    return plan_environment(pod, make_container(env=list(variables), **extra), FACTS)


def test_environment_of_fields_and_config_maps() -> None:
    def of(kind: str, **reference: str) -> Object:
        return {"name": "X", "valueFrom": {kind: reference}}

    assert environment(of("fieldRef", fieldPath="status.podIP")) == {"X": "10.244.0.5"}
    assert environment(of("fieldRef", fieldPath="status.hostIP")) == {"X": "172.18.0.2"}
    assert environment(of("fieldRef", fieldPath="status.hostIPs")) == {"X": "172.18.0.2,fd01::2"}
    assert environment(of("fieldRef", fieldPath="spec.nodeName")) == {"X": "node-1"}
    assert environment(of("fieldRef", fieldPath="metadata.labels['app']")) == {"X": "web"}
    assert environment(of("configMapKeyRef", name="settings", key="color")) == {"X": "blue"}


def test_variables_see_earlier_ones_and_win_over_env_from() -> None:
    source = [{"prefix": "P_", "configMapRef": {"name": "settings"}}]
    variables = ({"name": "P_size", "value": "small"}, {"name": "U", "value": "http://$(P_color)/$(P_size)"})
    assert environment(*variables, envFrom=source) == {"P_color": "blue", "P_size": "small", "U": "http://blue/small"}


def test_a_missing_config_map_is_an_error_unless_optional() -> None:
    def of(optional: bool, **where: str) -> Object:
        return {"name": "X", "valueFrom": {"configMapKeyRef": {**where, "optional": optional}}}

    with pytest.raises(ConfigError, match='configmap "none" not found'):
        environment(of(False, name="none", key="k"))
    with pytest.raises(ConfigError, match="couldn't find key k in ConfigMap settings"):
        environment(of(False, name="settings", key="k"))
    assert environment(of(True, name="none", key="k")) == {}


def test_service_variables() -> None:
    service = {
        "metadata": {"name": "my-db"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
    }
    headless = {"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}
    assert plan_service_variables([service, headless], None, True) == {
        "MY_DB_SERVICE_HOST": "10.96.0.9",
        "MY_DB_SERVICE_PORT": "5432",
        "MY_DB_SERVICE_PORT_SQL": "5432",
        "MY_DB_PORT": "tcp://10.96.0.9:5432",
        "MY_DB_PORT_5432_TCP": "tcp://10.96.0.9:5432",
        "MY_DB_PORT_5432_TCP_PROTO": "tcp",
        "MY_DB_PORT_5432_TCP_PORT": "5432",
        "MY_DB_PORT_5432_TCP_ADDR": "10.96.0.9",
    }
    assert plan_service_variables([service], None, False) == {}


MACHINE = Resolver(("192.0.2.53",), ("example.net",))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {},
            Resolver(
                ("10.96.0.10",),
                ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.net"),
                ("ndots:5",),
            ),
        ),
        ({"dnsPolicy": "Default"}, MACHINE),
        ({"hostNetwork": True}, MACHINE),
        (
            {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"]}},
            Resolver(("1.1.1.1",), ("a.b",)),
        ),
    ],
)
def test_resolver(spec: Object, expected: Resolver) -> None:
    assert plan_resolver(make_pod(**spec), ClusterConfig(), MACHINE) == expected


def test_dns_config_adds_to_the_policy() -> None:
    spec = {"dnsConfig": {"searches": ["x.y"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}
    resolver = plan_resolver(make_pod(**spec), ClusterConfig(), Resolver())
    assert resolver.searches[-1] == "x.y"
    assert resolver.options == ("ndots:2", "edns0")


def test_resolv_conf_and_back() -> None:
    resolver = Resolver(("10.96.0.10",), ("a", "b"), ("ndots:5",))
    assert parse_resolver(resolver.render()) == resolver


def test_host_names() -> None:
    assert choose_hostname(make_pod(), "node-1") == "pod"
    assert choose_hostname(make_pod(hostname="h"), "node-1") == "h"
    assert choose_hostname(make_pod(hostNetwork=True), "node-1") == "node-1"
    assert choose_hostname(make_pod(metadata={"name": "x" * 62 + "-yyy"}), "n") == "x" * 62


def test_etc_hosts_has_the_full_name_with_a_subdomain() -> None:
    pod = make_pod(hostname="h", subdomain="s", hostAliases=[{"ip": "1.2.3.4", "hostnames": ["alias"]}])
    lines = render_hosts(pod, ["10.244.0.5"], "h", "cluster.local").splitlines()
    assert "10.244.0.5\th.s.shop.svc.cluster.local\th" in lines
    assert "1.2.3.4\talias" in lines


def test_volumes_and_mounts(tmp_path: Any) -> None:
    pod = make_pod(
        volumes=[
            {"name": "conf", "configMap": {"name": "settings", "items": [{"key": "color", "path": "c"}]}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "host", "hostPath": {"path": "/srv"}},
        ]
    )
    plans = plan_volumes(pod, FACTS)
    assert plans[0].files == (("c", "blue", 0o644),)
    mounts = [{"name": "scratch", "mountPath": "/s"}, {"name": "host", "mountPath": "/h"}]
    scratch, host = plan_mounts(plans, make_container(volumeMounts=mounts), tmp_path)
    assert (scratch.source, scratch.target, scratch.read_only) == (f"{tmp_path}/scratch", "/s", False)
    assert (host.source, host.read_only) == ("/srv", True)  # the machine's own files are safe from pods


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"name": "v", "configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, "persistentVolumeClaim is not supported"),
    ],
)
def test_volumes_that_can_not_be(volume: Object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_volumes(make_pod(volumes=[volume]), FACTS)
