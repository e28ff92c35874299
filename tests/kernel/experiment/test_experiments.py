"""``netsim experiment run`` and ``netsim diff`` as a person types them, with real clusters."""

import json
import os
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netsim.testing.waiting import wait_until
from tests.kernel.cli.conftest import Netsim

pytestmark = pytest.mark.needs("netns", "iptables-nft", "nft")
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Netsim]:
    """The program with a state directory of its own, in which nothing may be left."""
    state = tmp_path / "s"
    yield Netsim(state)
    assert not state.exists() or [path.name for path in state.iterdir() if path.is_dir()] == []


def run(program: Netsim, tmp_path: Path, *argv: str, status: int = 0) -> tuple[dict[str, Any], str]:
    """The report, and what was printed."""
    out = tmp_path / "report"
    done = program("experiment", "run", *argv, "--out", str(out), status=status)
    assert "Traceback" not in done.stderr
    return json.loads((out / "report.json").read_text()), done.stdout


def junit(tmp_path: Path) -> ET.Element:
    return ET.parse(tmp_path / "report" / "junit.xml").getroot()


def test_four_kinds_in_two_modes(program: Netsim, tmp_path: Path) -> None:
    report, text = run(program, tmp_path, "four-kinds", "--only", "proxyMode=iptables,nftables")
    assert [one["status"] for one in report["combinations"]] == ["passed", "passed"], text
    assert "2 passed of 2 combinations" in text
    by_step = {one["step"]: one for one in report["differences"]}
    assert by_step["container to container, in one pod"]["summary"] == "the same in all combinations"
    assert by_step["pod to Service"]["summary"] == "the same path in all 2 combinations, by 2 kinds of rules"
    assert len(by_step["the rules of the Service"]["groups"]) == 2
    cases = list(junit(tmp_path).iter("testcase"))
    assert len(cases) == report["totals"]["held"] == 46
    assert not [case for case in cases if len(case)]


def test_what_the_kernel_lacks_is_skipped_and_said(program: Netsim, tmp_path: Path) -> None:
    from tests.features import missing_feature

    if missing_feature("ipvs") is None:
        pytest.skip("ipvs: this kernel has it")
    report, text = run(program, tmp_path, "four-kinds", "--only", "proxyMode=ipvs", status=1)
    assert report["combinations"][0]["status"] == "skipped"
    assert "CONFIG_IP_VS" in report["combinations"][0]["why"]
    assert "proxyMode=ipvs skipped: " in text
    assert {len(case.findall("skipped")) for case in junit(tmp_path).iter("testcase")} == {1}


def test_client_address(program: Netsim, tmp_path: Path) -> None:
    report, text = run(program, tmp_path, "client-address", "--only", "proxyMode=nftables")
    assert [one["status"] for one in report["combinations"]] == ["passed", "passed"], text
    seen = [one["steps"][0]["facts"]["seenAs"] for one in report["combinations"]]
    assert seen == ["node/node-1", "host/external"]


def test_service_scale_has_figures_and_plots(program: Netsim, tmp_path: Path) -> None:
    report, text = run(program, tmp_path, "service-scale", "--only", "services=10,100", "--only", "proxyMode=nftables")
    assert [one["status"] for one in report["combinations"]] == ["passed", "passed"], text
    for one in report["combinations"]:
        facts = {step["kind"]: step["facts"] for step in one["steps"]}
        assert facts["first-packet"]["errors"] == 0
        assert 0 < facts["first-packet"]["p50Ms"] <= facts["first-packet"]["p99Ms"]
        assert facts["rule-update"]["count"] == 11
        assert facts["sync"]["ms"] > 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert report["jobs"] == 1


def test_the_page_opens_in_a_browser(program: Netsim, tmp_path: Path) -> None:
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        if {"browser", "all"} & set(os.environ.get("NETSIM_REQUIRE", "").split(",")):
            pytest.fail("browser: none is here")
        pytest.skip(f"browser: none of {', '.join(BROWSERS)} is here")
    run(program, tmp_path, "four-kinds", "--only", "proxyMode=nftables")
    picture = tmp_path / "page.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    address = (tmp_path / "report" / "report.html").as_uri()
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    options: dict[str, Any] = {"timeout": 120, "env": environment, "capture_output": True}
    dom = subprocess.run([*command, "--dump-dom", address], text=True, check=True, **options).stdout
    assert dom.count("<details") >= 7
    assert "all as expected" in dom
    subprocess.run([*command, f"--screenshot={picture}", "--window-size=1200,1600", address], check=True, **options)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert picture.stat().st_size > 20_000


STEPS = """\
name: own
matrix: {mtu: [1400, 1500]}
topology: {nodes: 1, dns: false}
manifests:
- apiVersion: v1
  kind: Pod
  metadata: {name: web}
  spec: {containers: [{name: main, image: nginx, ports: [{containerPort: 80}]}]}
steps:
- name: its mtu
  exec: {in: pod/web, command: [cat, /sys/class/net/eth0/mtu]}
  expect: {exit: 0, stdout: "${mtu}*"}
- name: never so
  exec: {in: node/node-1, command: [sh, -c, "echo said; exit 3"]}
  expect: {exit: 0}
- name: cut
  fault: {kind: link-down, at: node/node-1}
- name: while it is cut
  probe: {from: host/external, to: "pod/web:80"}
  expect: {verdict: {not: delivered}}
- undo: cut
- name: at the node
  probe: {from: node/node-1, to: "pod/web:80", count: 3}
  expect: {verdict: delivered, endpoints: 1}
- load: {from: node/node-1, to: "pod/web:80", connections: 40, parallel: 4}
  expect: {errors: 0, count: 40}
- patch: {kind: Pod, name: web, patch: {metadata: {labels: {app: web}}}}
- wait: 1ms
- delete: {kind: Pod, name: web}
- name: into the void
  when: {mtu: 1400}
  exec: {in: pod/web, command: ["true"]}
  expect: {exit: 0}
- name: never reached by 1400
  exec: {in: node/node-1, command: ["true"]}
  expect: {exit: 0}
"""


def test_what_fails_is_told_everywhere(program: Netsim, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(STEPS)
    report, text = run(program, tmp_path, str(file), status=1)
    by_label = {one["label"]: one for one in report["combinations"]}
    assert {label: one["status"] for label, one in by_label.items()} == {"mtu=1400": "failed", "mtu=1500": "failed"}
    failed = [
        (one["label"], step["name"], check["found"])
        for one in report["combinations"]
        for step in one["steps"]
        for check in step["expectations"]
        if check["status"] == "failed"
    ]
    assert failed == [("mtu=1400", "never so", "3"), ("mtu=1500", "never so", "3")]
    assert 'pods "web" not found' in by_label["mtu=1400"]["why"]
    assert [step["status"] for step in by_label["mtu=1400"]["steps"]][-2:] == ["error", "not reached"]
    assert "never so: exit is 0\n  found: 3" in text
    failures = [case.get("name") for case in junit(tmp_path).iter("testcase") if case.find("failure") is not None]
    assert failures == ["never so: exit is 0"] * 2
    errors = [case.get("name") for case in junit(tmp_path).iter("testcase") if case.find("error") is not None]
    assert errors == ["into the void: is done"]


def test_every_kind_of_step_in_ipv6(program: Netsim, tmp_path: Path) -> None:
    file = tmp_path / "six.yaml"
    file.write_text(SIX)
    report, text = run(program, tmp_path, str(file))
    assert report["totals"]["held"] == 12, text
    steps = {step["name"]: step for step in report["combinations"][0]["steps"]}
    assert steps["udp to nobody"]["log"] == ["2 of the connections: Connection refused"]
    assert steps["lb"]["facts"]["rate"] > 0
    assert steps["rule-update"]["facts"]["count"] == 3


SIX = """\
name: six
matrix: {ipFamily: [ipv6]}
topology: {nodes: 2, proxyMode: nftables}
manifests:
- apiVersion: v1
  kind: Pod
  metadata: {name: client}
  spec: {nodeName: node-1, containers: [{name: c, image: pause}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: web, labels: {app: web}}
  spec: {nodeName: node-2, containers: [{name: c, image: nginx, ports: [{containerPort: 80}]}]}
- apiVersion: v1
  kind: Service
  metadata: {name: web}
  spec: {selector: {app: web}, type: LoadBalancer, ports: [{port: 80, nodePort: 30080}]}
steps:
- probe: {from: pod/client, to: "svc/web:80", ipFamily: ipv6}
  expect: {verdict: delivered, seenAs: pod/default/client, source: kept}
- load-balancer: {service: svc/web, address: "2001:db8:80::1", nodes: [node-1]}
- probe: {from: host/external, to: "[2001:db8:80::1]:80", protocol: tcp}
  expect: {verdict: delivered, seenAs: node/node-1}
- probe: {from: pod/client, to: "pod/web", protocol: icmp, ipFamily: ipv6}
  expect: {verdict: delivered, through: [node/node-1, fabric, node/node-2]}
- services: 5
- first-packet: {from: pod/client, to: services, count: 20}
  expect: {errors: 0}
- name: lb
  load: {from: host/external, to: "[2001:db8:80::1]:80", connections: 20}
  expect: {errors: 0}
- name: udp to nobody
  load: {from: pod/client, to: "pod/web:9", connections: 2, protocol: udp, timeout: 0.2}
  expect: {errors: 2}
- rule-update: {count: 3}
- fault: {kind: partition, at: [node/node-1, [node/node-2]]}
  name: cut
- name: through the cut
  probe: {from: pod/client, to: "pod/web:80", count: 2}
  expect: {verdict: {not: delivered}}
- undo: all
- fault: {kind: kill, at: pod/web}
- wait: 300ms
- name: again
  probe: {from: pod/client, to: "svc/web:80", timeout: 2}
  expect: {verdict: delivered}
"""


def count_running(program: Netsim) -> int:
    return len([one for one in json.loads(program("list", "-o", "json").stdout) if one["state"] == "running"])


def start_slow(program: Netsim, folder: Path) -> "subprocess.Popen[str]":
    """Two combinations under way, each in its cluster."""
    file = folder / "slow.yaml"
    file.write_text("name: slow\nmatrix: {mtu: [1400, 1500]}\ntopology: {nodes: 1, dns: false}\nsteps:\n- wait: 10m\n")
    process = program.start("experiment", "run", str(file), "--out", str(folder / "report"), "--jobs", "2")
    wait_until("both clusters run", lambda: count_running(program) == 2, timeout_s=60)
    return process


def test_kill_9_leaves_no_cluster(program: Netsim, tmp_path: Path) -> None:
    process = start_slow(program, tmp_path)
    process.kill()
    process.communicate(timeout=60)
    wait_until("its clusters are gone", lambda: program("list", "-o", "json").stdout.strip() == "[]", timeout_s=60)
    assert not (tmp_path / "report" / "report.json").exists()


def test_ctrl_c_leaves_a_report_and_no_cluster(program: Netsim, tmp_path: Path) -> None:
    out = tmp_path / "report"
    process = start_slow(program, tmp_path)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"] is True
    assert {one["status"] for one in report["combinations"]} == {"interrupted"}
    assert json.loads(program("list", "-o", "json").stdout) == []


def test_wrong_usage(program: Netsim, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(STEPS.replace("exec:", "exek:", 1))
    error = program("experiment", "run", str(file), status=1).stderr
    assert f'{file}:11: unknown field "steps[0].exek"' in error
    file.write_text(STEPS)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    error = program("experiment", "run", str(file), "--out", str(tmp_path / "taken"), status=1).stderr
    assert "holds no report" in error
    assert program("experiment", "run", str(file), "--only", "mtu", status=2).stderr
    assert "mtu=1400" in program("experiment", "run", str(file), "--list").stdout
    assert "service-scale" in program("experiment", "list").stdout


def test_diff(program: Netsim, tmp_path: Path) -> None:
    manifest = tmp_path / "web.yaml"
    manifest.write_text(WEB)
    program("up", "a", "--nodes", "2")
    program("up", "b", "--nodes", "2")
    try:
        for name in ("a", "b"):
            program("apply", "-f", str(manifest), "--cluster", name)
        said = program("diff", "a", "b").stdout
        assert "paths: all 12 are the same" in said
        assert "rules: all 6 are the same" in said
        before = tmp_path / "before.json"
        program("diff", "--save", str(before), "a")
        device = tmp_path / "full"
        device.symlink_to("/dev/full")  # never the device itself, which a program that replaces files would take away
        refused = program("diff", "--save", str(device), "a", status=1).stderr
        assert f"{device}: cannot write: No space left on device" in refused
        assert device.is_char_device(), "it was written to, and not replaced"
        program("proxy-mode", "nftables", "--cluster", "a")
        modes = json.loads(program("diff", str(before), "a", "-o", "json", status=1).stdout)
        assert modes["topology"] == ["proxyMode: iptables | nftables"]
        assert modes["paths"] == []
        assert len(modes["rules"]) == 6
        program("proxy-mode", "iptables", "--cluster", "a")
        program("exec", "node/node-1", "--cluster", "a", "--", "ip", "route", "del", "10.244.1.0/24")
        cut = program("diff", str(before), "a", status=1).stdout
        assert "-  route podCIDR of node/node-2 via node/node-2 dev eth0" in cut
        assert "rules: all 6 are the same" in cut
        assert "which two?" in program("diff", "a", status=2).stderr
        assert "is no snapshot" in program("diff", str(manifest), "a", status=1).stderr
    finally:
        program("down", "--all")


WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
"""
