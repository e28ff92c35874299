"""An experiment of two modes and two sizes, and results of it as if it had been run."""

from dataclasses import replace
from pathlib import Path

from netsim.experiment.parse import parse_experiment
from netsim.experiment.result import Checked, PathGroup, Result
from netsim.experiment.run import prepare_result
from netsim.experiment.spec import Experiment
from netsim.model.errors import InputError
from netsim.observe.path import Path as Way
from tests.unit.observe.test_path_json import make_path

TEXT = """\
name: example
title: An example
about: |
  Of <everything>.
matrix:
  size: [1, 10]
  proxyMode: [iptables, nftables]
topology: {nodes: 2}
manifests:
- apiVersion: v1
  kind: Pod
  metadata: {name: "pod-${size}"}
  spec: {containers: [{name: main, image: nginx}]}
steps:
- name: probe it
  probe: {from: host/external, to: "pod/pod-${size}:80"}
  expect:
  - {verdict: delivered}
  - {when: {proxyMode: nftables}, source: kept}
- name: how fast
  first-packet: {from: host/external, to: "pod/pod-${size}:80", count: 5}
  expect: {errors: 0, p99Ms: {atMost: 5}}
- name: only there
  when: {proxyMode: iptables}
  rules: svc/web
"""


def no_files(name: str) -> str:
    raise InputError("cannot read: No such file or directory", where=name)


def make_experiment(text: str = TEXT) -> Experiment:
    return parse_experiment(text, "example.yaml", no_files)


def make_result() -> Result:
    """Four combinations: passed, failed with words that markup must not take as its own, in error, and skipped."""
    experiment = make_experiment()
    results = [prepare_result(one) for one in experiment.combinations]
    for at, result in enumerate(results[:2]):
        result.status, result.elapsed_s = ("passed", "failed")[at], 1.5
        for step in result.steps:
            step.status, step.elapsed_ms = "done", 12.0
            step.checked = [replace(one, held="held", found="delivered") for one in step.checked]
        result.steps[0].paths = (PathGroup(1, way_by(at)),)
        result.steps[0].facts = {"verdict": "delivered", "seenAs": "pod/default/client"}
        result.steps[1].facts = {"count": 5, "errors": 0, "p50Ms": 0.2 * (at + 1), "p99Ms": 0.9}
    results[1].steps[0].checked[0] = Checked("verdict", "verdict is delivered", "failed", '</script><b>"x\x07&')
    results[2].status, results[2].why = "error", 'step "probe it": it broke'
    results[2].steps[0].status, results[2].steps[0].error = "error", "it broke"
    results[3].status, results[3].why = "skipped", "the kernel has no <nft>"
    machine = {"kernel": "6.1", "cores": 2, "python": "3.11", "netsim": "0", "load": 0.1}
    return Result(experiment, results, "2026-01-02T03:04:05Z", 3.25, 1, machine)


def way_by(number: int) -> Way:
    """A way; the second's first hop is at another place."""
    path = make_path()
    if number == 0:
        return path
    return replace(path, hops=(replace(path.hops[0], place="node/elsewhere"), *path.hops[1:]))


SHIPPED = Path(__file__).parents[3] / "netsim/experiment/shipped"
