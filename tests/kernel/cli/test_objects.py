"""apply, get, describe, logs and delete against a real cluster, as a person and as a script use them."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from netsim.cluster.handle import attach
from tests.kernel.cli.conftest import Netsim

pytestmark = pytest.mark.needs("root")

CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  key: {value}\n"


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_apply_says_what_it_did_as_kubectl_does(netsim: Netsim) -> None:
    first = CONFIG.format(name="told", value="one")
    assert netsim("apply", "-f", "-", input=first).stdout == "configmap/told created\n"
    assert netsim("apply", "-f", "-", input=first).stdout == "configmap/told unchanged\n"
    assert (
        netsim("apply", "-f", "-", input=CONFIG.format(name="told", value="two")).stdout
        == "configmap/told configured\n"
    )
    assert netsim("delete", "configmap", "told").stdout == "configmap/told deleted\n"
    gone = netsim("get", "configmap", "told", status=1)
    assert gone.stderr.startswith('error: configmaps "told" not found')


def test_delete_tells_what_it_did_before_it_failed(netsim: Netsim) -> None:
    for name in ("one", "two"):
        netsim("apply", "-f", "-", input=CONFIG.format(name=name, value="x"))
    failed = netsim("delete", "configmap/one", "cm/two", "svc/nope", status=1)
    assert failed.stdout == "configmap/one deleted\nconfigmap/two deleted\n"
    assert failed.stderr.startswith('error: services "nope" not found\nnext: ')


def test_apply_and_delete_are_machine_readable(netsim: Netsim, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(CONFIG.format(name="machine", value="one"))
    (applied,) = netsim.json("apply", "-f", str(tmp_path), "-f", str(path))[:1]
    assert applied["change"] == "created"
    assert applied["object"]["metadata"]["name"] == "machine"
    assert applied["object"]["kind"] == "ConfigMap"
    (deleted,) = netsim.json("delete", "-f", str(path))
    assert (deleted["change"], deleted["object"]["metadata"]["name"]) == ("deleted", "machine")


def test_apply_returns_when_the_next_packet_arrives(deployed: Netsim) -> None:
    page = deployed("exec", "pod/client", "--", "curl", "-s", "--max-time", "5", "http://web").stdout
    assert page


def test_get_prints_the_servers_table(deployed: Netsim) -> None:
    header, *rows = lines(deployed("get", "pods", "-l", "app=web").stdout)
    assert header == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert len(rows) == 2
    assert all(row[1:3] == ["1/1", "Running"] for row in rows)
    wide = lines(deployed("get", "pods", "-l", "app=web", "-o", "wide").stdout)
    assert wide[0][:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    everywhere = lines(deployed("get", "pods", "-A").stdout)
    assert everywhere[0][0] == "NAMESPACE"
    assert {row[0] for row in everywhere[1:]} >= {"default", "kube-system"}


def test_get_several_kinds_and_all(deployed: Netsim) -> None:
    text = deployed("get", "all").stdout
    for name in ("pod/client", "service/web", "deployment.apps/web", "replicaset.apps/web-"):
        assert f"\n{name}" in f"\n{text}"
    assert "service/web" in deployed("get", "svc,deploy").stdout


def test_get_as_json_yaml_and_names(deployed: Netsim) -> None:
    service = deployed.json("get", "service", "web")
    assert (service["apiVersion"], service["kind"], service["metadata"]["name"]) == ("v1", "Service", "web")
    assert yaml.safe_load(deployed("get", "svc/web", "-o", "yaml").stdout)["spec"] == service["spec"]
    listed = deployed.json("get", "pods", "-l", "app=web")
    assert listed["kind"] == "List"
    assert [item["kind"] for item in listed["items"]] == ["Pod", "Pod"]
    assert deployed("get", "deploy", "-o", "name").stdout == "deployment.apps/web\n"


def test_get_shows_what_is_there_and_tells_what_is_not(deployed: Netsim) -> None:
    done = deployed("get", "pods", "nope", "client", "never", status=1)
    assert [row[0] for row in lines(done.stdout)] == ["NAME", "client"]
    first, second, hint = done.stderr.splitlines()
    assert (first, second) == ('error: pods "nope" not found', 'error: pods "never" not found')
    assert hint.startswith("next: ")
    listed = json.loads(deployed("get", "pod", "client", "nope", "-o", "json", status=1).stdout)
    assert [item["metadata"]["name"] for item in listed["items"]] == ["client"]
    assert deployed("get", "po", "client", "nope", "-o", "name", status=1).stdout == "pod/client\n"
    assert deployed("get", "pod", "nope", "-o", "json", status=1).stdout == ""


def test_get_takes_objects_of_several_kinds(deployed: Netsim) -> None:
    text = deployed("get", "svc/web", "pod/client", "service/kubernetes").stdout
    assert [row[0] for row in lines(text) if row] == ["NAME", "service/web", "service/kubernetes", "NAME", "pod/client"]
    assert [o["kind"] for o in deployed.json("get", "svc/web", "pod/client")["items"]] == ["Service", "Pod"]
    missed = deployed("get", "pod/client", "svc/nope", status=1)
    assert "pod/client" in missed.stdout
    assert missed.stderr.startswith('error: services "nope" not found\nnext: ')


def test_get_nothing_is_said_on_standard_error(netsim: Netsim) -> None:
    done = netsim("get", "pods", "-n", "nowhere")
    assert (done.stdout, done.stderr) == ("", "No resources found in nowhere namespace.\n")
    assert netsim.json("get", "pods", "-n", "nowhere")["items"] == []


def test_get_watch_prints_what_changes(netsim: Netsim) -> None:
    with netsim.start("get", "configmaps", "-l", "watched=yes", "--watch") as watching:
        assert watching.stdout is not None
        try:
            labelled = CONFIG.format(name="watched", value="one").replace(
                "\ndata:", "\n  labels: {watched: 'yes'}\ndata:"
            )
            netsim("apply", "-f", "-", input=labelled)
            # A table's head comes first when the object was there before the watch began.
            lines = (line for line in watching.stdout if not line.startswith("NAME"))
            assert next(lines).split()[0] == "watched"
        finally:
            watching.terminate()
    netsim("delete", "configmap", "watched")


def test_describe_shows_a_config_map_as_it_was_written(netsim: Netsim) -> None:
    text = "listen 80\nname: x\n\n  deeper\n"
    config = {"metadata": {"name": "written"}, "data": {"conf": text, "word": "plain"}, "binaryData": {"b": "AAE="}}
    manifest = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", **config})
    netsim("apply", "-f", "-", input=manifest)
    shown = netsim("describe", "cm", "written").stdout
    data = shown.partition("Data:\n")[2].partition("Events:")[0].splitlines()
    assert data == [
        "  conf:",
        "    listen 80",
        "    name: x",
        "",
        "      deeper",
        "  word: plain",
        "  b:                2 bytes",
    ]
    netsim("delete", "cm", "written")


def test_describe_shows_what_belongs_together(deployed: Netsim) -> None:
    service = deployed("describe", "service", "web").stdout
    assert "Endpoints:" in service
    assert service.count("80/TCP  ready") + service.count("80/TCP   ready") == 2
    pod = deployed("describe", "pod/client").stdout
    assert "Node:" in pod
    assert "Events:" in pod
    assert "Scheduled" in pod
    node = deployed("describe", "node", "node-1").stdout
    assert "Pod CIDRs:" in node
    assert "Pods (" in node
    assert "ReplicaSets:" in deployed("describe", "deployment", "web").stdout
    assert deployed("describe", "pod", "nope", status=1).stderr.startswith('error: pods "nope" not found')


def test_logs(deployed: Netsim) -> None:
    assert deployed("logs", "client").stdout == "hello from the client\n"
    assert deployed("logs", "default/client", "--tail", "0").stdout == ""
    with deployed.start("logs", "client", "--follow") as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "hello from the client\n"
        following.terminate()
    missing = deployed("logs", "nope", status=1).stderr.splitlines()
    assert missing == ['error: pods "nope" not found', "next: netsim get pods -A shows what there is"]
    assert "-c NAME" in deployed("logs", "client", "-c", "nope", status=1).stderr
    broken = {"containers": [{"name": "x", "image": "busybox", "command": ["no-such-program"]}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "broken"}, "spec": broken}
    deployed("apply", "-f", "-", "--timeout", "2", input=json.dumps(pod), status=1)
    error, hint = deployed("logs", "broken", status=1).stderr.splitlines()
    assert "is waiting to start: RunContainerError" in error
    assert hint.endswith("netsim describe pod broken -n default shows them and their states")
    deployed("delete", "pod", "broken")
    assert "next: logs are of pods" in deployed("logs", "deploy/web", status=1).stderr


@pytest.mark.parametrize(
    ("manifest", "place", "words"),
    [
        ("a: b: c\n", ":1", "broken YAML: mapping values are not allowed"),
        ("apiVersion: v1\nkind: Frog\nmetadata: {name: a}\n", ":2", 'unknown kind "Frog"'),
        (CONFIG.format(name="Not_Valid", value="x"), ":4", "Invalid value"),
        (CONFIG.format(name="typing-error", value="x") + "dta: {}\n", ":7", 'unknown field "dta"'),
    ],
)
def test_a_wrong_manifest_is_told_with_file_and_line(
    netsim: Netsim, tmp_path: Path, manifest: str, place: str, words: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(manifest)
    done = netsim("apply", "-f", str(path), status=1)
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {path}{place}: ")
    assert words in done.stderr


def test_what_was_applied_before_a_fault_is_told(netsim: Netsim) -> None:
    both = CONFIG.format(name="good", value="x") + "---\n" + CONFIG.format(name="Bad_One", value="x")
    done = netsim("apply", "-f", "-", input=both, status=1)
    assert done.stdout == "configmap/good created\n"
    assert "<stdin>:" in done.stderr
    netsim("delete", "configmap", "good")


def test_a_timeout_says_what_is_not_ready_and_why(netsim: Netsim) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "homeless"},
        "spec": {"nodeSelector": {"planet": "mars"}, "containers": [{"name": "main", "image": "pause"}]},
    }
    done = netsim("apply", "-f", "-", "--timeout", "0.5", input=json.dumps(pod), status=1)
    assert done.stdout == "pod/homeless created\n"
    assert "not ready after 0.5 s" in done.stderr
    assert "pod/homeless" in done.stderr
    assert "node" in done.stderr
    netsim("delete", "pod", "homeless")


def test_a_pod_for_a_node_that_is_not_there_says_so(netsim: Netsim, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"nodeName": "node-9", "containers": [{"name": "main", "image": "pause"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "astray"}, "spec": spec}
    done = netsim("apply", "-f", "-", "--timeout", "0.5", input=json.dumps(pod), status=1)
    assert "its nodeName is node-9, and there is no such node" in done.stderr
    held = netsim("delete", "pod", "astray", "--timeout", "0.5", status=1)
    assert "a node that is gone" in held.stderr
    monkeypatch.setenv("NETSIM_STATE_DIR", str(netsim.state_dir))
    with closing(attach("cli")) as cluster:
        cluster.request("DELETE", "/api/v1/namespaces/default/pods/astray", body={"gracePeriodSeconds": 0})
    assert "astray" not in netsim("get", "pods").stdout
