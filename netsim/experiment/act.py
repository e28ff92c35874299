"""One step at one cluster: acts through the handle, and returns facts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from netsim.cluster.handle import ActiveFault, Cluster
from netsim.experiment import bench
from netsim.experiment.balancer import balance
from netsim.experiment.checks import holds, spell_wanted
from netsim.experiment.facts import describe_path
from netsim.experiment.renaming import Renamer, name_objects
from netsim.experiment.result import Checked, PathGroup, StepResult
from netsim.experiment.spec import Expectation, Step
from netsim.faults.values import parse_duration
from netsim.model.errors import TimeoutExpired
from netsim.observe.spread import Spread

_APPLY_TIMEOUT_S = 60.0
_NAP_S = 0.05


@dataclass(slots=True)
class Done:
    """What a step found. ``each`` are the facts of each of several probes, of which every one must be as expected."""

    facts: dict[str, Any]
    each: list[dict[str, Any]] = field(default_factory=list)
    paths: tuple[PathGroup, ...] = ()
    log: tuple[str, ...] = ()
    common: tuple[str, ...] = ()


@dataclass(slots=True)
class Actor:
    """Does the steps of one combination, in order. ``stopping`` is asked during long waits."""

    cluster: Cluster
    stopping: Callable[[], bool]
    faults: dict[str, ActiveFault] = field(default_factory=dict)

    def run(self, step: Step, result: StepResult) -> None:
        """Do it, and check what is expected of it. Raises NetsimError when it can't be done."""
        started = time.monotonic()
        try:
            done = self._do(step)
        finally:
            result.elapsed_ms = (time.monotonic() - started) * 1000
        result.facts, result.paths, result.log, result.common = done.facts, done.paths, done.log, done.common
        result.checked = [check_fact(one, done.facts, done.each or [done.facts]) for one in step.expect]
        result.status = "done"

    def _do(self, step: Step) -> Done:
        arguments = step.arguments
        match step.kind:
            case "probe":
                return self._probe(arguments)
            case "load":
                facts, log = bench.measure_load(self.cluster, arguments)
            case "first-packet":
                facts, log = bench.measure_first_packet(self.cluster, arguments)
            case "rule-update":
                facts, log = bench.measure_rule_update(self.cluster, arguments)
            case "sync":
                facts, log = bench.measure_sync(self.cluster)
            case "services":
                return Done(bench.make_services(self.cluster, arguments))
            case "rules":
                return self._rules(arguments)
            case "exec":
                return self._exec(arguments)
            case _:
                started = time.monotonic()
                self._change(step)
                return Done({"ms": round((time.monotonic() - started) * 1000, 3)})
        return Done(facts, log=log)

    def _change(self, step: Step) -> None:
        """The kinds that change the cluster and find nothing."""
        cluster, arguments = self.cluster, step.arguments
        namespace = arguments.get("namespace", "default")
        timeout_s = arguments.get("timeout", _APPLY_TIMEOUT_S)
        match step.kind:
            case "apply":
                cluster.apply(arguments["manifests"], timeout_s=timeout_s)
            case "delete":
                cluster.delete(arguments["kind"], arguments["name"], namespace=namespace)
            case "patch":
                cluster.patch(arguments["kind"], arguments["name"], arguments["patch"], namespace)
                cluster.barrier(timeout_s=timeout_s)
            case "load-balancer":
                balance(cluster, arguments["service"], arguments["address"], arguments["nodes"])
            case "scale":
                patch = {"spec": {"replicas": arguments["replicas"]}}
                changed = cluster.patch("Deployment", arguments["deployment"], patch, namespace)
                cluster.wait_ready([changed], timeout_s=timeout_s)
            case "wait":
                self._wait(arguments["for"])
            case "fault":
                self._fault(step)
            case "undo":
                self._undo(arguments["fault"])
            case _:
                raise ValueError(f"no such kind of step: {step.kind}")

    def _probe(self, arguments: Mapping[str, Any]) -> Done:
        spread, each = Spread(), []
        for _ in range(arguments.get("count", 1)):
            self._check_stop()
            path = self.cluster.trace(
                arguments["from"],
                arguments["to"],
                protocol=arguments.get("protocol"),
                ip_family=arguments.get("ipFamily"),
                size_bytes=arguments.get("size", 0),
                **({"timeout_s": float(arguments["timeout"])} if "timeout" in arguments else {}),
            )
            spread.add(path)
            each.append(describe_path(path))
        number = len(spread.answered_by)
        for facts in each:
            facts["endpoints"] = number
        groups = tuple(PathGroup(group.count, group.path) for group in spread.groups)
        return Done(each[0], each, groups, tuple(f"answered {n}: {place}" for place, n in spread.answered_by.items()))

    def _rules(self, arguments: Mapping[str, Any]) -> Done:
        node = arguments.get("node")
        found = self.cluster.rules(arguments["service"], node=node and node.removeprefix("node/"))
        rename = Renamer(name_objects(*(self.cluster.list(kind) for kind in ("Pod", "Node", "Service"))))
        lines = [
            " ".join(filter(None, (one.node, group.backend, group.family, group.table, f"{group.name}:", line.text)))
            for one in found.nodes
            for group in one.groups
            for line in group.lines
        ]
        return Done({"lines": lines, "count": len(lines)}, log=tuple(lines), common=tuple(map(rename, lines)))

    def _exec(self, arguments: Mapping[str, Any]) -> Done:
        done = self.cluster.exec(
            arguments["in"],
            arguments["command"],
            input=arguments.get("input", ""),
            timeout_s=arguments.get("timeout", 30.0),
        )
        log = tuple(
            f"{name}: {text.rstrip()}" for name, text in (("stdout", done.stdout), ("stderr", done.stderr)) if text
        )
        return Done({"exit": done.returncode, "stdout": done.stdout, "stderr": done.stderr}, log=log)

    def _fault(self, step: Step) -> None:
        values = {key: value for key, value in step.arguments.items() if key not in ("kind", "at")}
        at = step.arguments["at"]
        self.faults[step.name] = self.cluster.fault(
            step.arguments["kind"], *(at if isinstance(at, list) else [at]), **values
        )

    def _undo(self, name: str) -> None:
        for fault in [*self.faults.values()] if name == "all" else [self.faults[name]]:
            fault.undo()

    def _wait(self, wanted: Any) -> None:
        if wanted == "barrier":
            self.cluster.barrier(timeout_s=_APPLY_TIMEOUT_S)
            return
        until = time.monotonic() + parse_duration(wanted, "wait")
        while (left := until - time.monotonic()) > 0:
            self._check_stop()
            time.sleep(min(left, _NAP_S))

    def _check_stop(self) -> None:
        if self.stopping():
            raise TimeoutExpired("interrupted")


def check_fact(expectation: Expectation, facts: Mapping[str, Any], each: list[dict[str, Any]]) -> Checked:
    """One expectation against what was found: of several probes all must be so. A fact that there is not fails."""
    text = spell_wanted(expectation.key, expectation.wanted)
    for number, one in enumerate(each, 1):
        found = one.get(expectation.key)
        if found is None or not holds(found, expectation.wanted):
            words = "nothing" if found is None else spell_found(found)
            return Checked(expectation.key, text, "failed", f"{words} (probe {number})" if len(each) > 1 else words)
    return Checked(expectation.key, text, "held", spell_found(facts[expectation.key]))


def spell_found(found: Any) -> str:
    """A fact in one line, cut where it is long."""
    text = ", ".join(map(str, found)) if isinstance(found, list) else str(found)
    return text if len(text) <= 400 else f"{text[:400]}..."
