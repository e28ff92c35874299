"""Running an experiment: every combination in a cluster of its own, side by side where no figures are disturbed."""

import os
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from netsim import __version__
from netsim.cluster.handle import Cluster, attach, up
from netsim.experiment.act import Actor
from netsim.experiment.checks import spell_wanted
from netsim.experiment.result import Checked, CombinationResult, Result, StepResult
from netsim.experiment.spec import Combination, Experiment
from netsim.model.errors import FeatureMissing, NetsimError

_POLL_S = 0.2  # between looks at finished combinations; Ctrl-C interrupts the wait at once
_NAME_LENGTH = 30

Tell = Callable[[str], None]


@dataclass(slots=True)
class _Run:
    """What the workers share."""

    experiment: Experiment
    tell: Tell
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    clusters: dict[str, Cluster] = field(default_factory=dict)  # those that live

    def combination(self, number: int, combination: Combination, result: CombinationResult) -> None:
        """Run one combination, into ``result``; in a worker thread."""
        if self.stopping.is_set():
            return
        started = time.monotonic()
        name = f"{self.experiment.name[:_NAME_LENGTH].rstrip('-')}-{os.getpid()}-{number}"
        try:
            cluster = up(name, config={"nodes": 3, **combination.topology})
        except FeatureMissing as error:
            result.status, result.why = "skipped", _words(error)
            return
        except (NetsimError, OSError) as error:
            result.status, result.why = "error", f"the cluster did not come up: {_words(error)}"
            return
        finally:
            result.elapsed_s = time.monotonic() - started
        result.up_s = result.elapsed_s
        with self.lock:
            self.clusters[name] = cluster
        try:
            if not self.stopping.is_set():  # stop() sets it first: it has ended this cluster, or this sees it
                self._in_cluster(cluster, combination, result)
        finally:
            with self.lock:
                del self.clusters[name]
            cluster.down()
            result.elapsed_s = time.monotonic() - started

    def _in_cluster(self, cluster: Cluster, combination: Combination, result: CombinationResult) -> None:
        actor = Actor(cluster, self.stopping.is_set)
        at: StepResult | None = None
        try:
            if combination.manifests:
                cluster.apply(list(combination.manifests))
            for step, at in zip(combination.steps, result.steps, strict=True):
                if self.stopping.is_set():
                    return
                self.tell(f"{result.label}: {step.name}")
                actor.run(step, at)
        except (NetsimError, OSError) as error:
            if self.stopping.is_set():  # the cluster was taken away beneath it
                return
            words = _words(error)
            if at is not None:
                at.status, at.error = "error", words
            result.status = "skipped" if isinstance(error, FeatureMissing) else "error"
            result.why = f'step "{at.name}": {words}' if at is not None else f"manifests: {words}"
            if result.count("failed"):
                result.status = "failed"
            return
        result.status = "failed" if result.count("failed") else "passed"

    def stop(self) -> None:
        """End everything that runs. Workers notice and return."""
        self.stopping.set()
        with self.lock:
            names = list(self.clusters)
        for name in names:
            try:
                attach(name).down()  # a handle of its own: the worker's is in use
            except NetsimError:
                continue  # its worker was quicker


def run_experiment(experiment: Experiment, *, jobs: int | None = None, tell: Tell = lambda _words: None) -> Result:
    """Run all combinations and return what came of them. Nothing is left, also after Ctrl-C, which makes the result
    ``interrupted`` with what there was until then.

    jobs: how many at once; default the number of processors. Experiments with figures run one at a time in any case.
    """
    started_at = datetime.now(UTC)
    started = time.monotonic()
    jobs = 1 if experiment.measuring else max(1, jobs or os.cpu_count() or 1)
    results = [prepare_result(one) for one in experiment.combinations]
    run = _Run(experiment, tell)
    interrupted = False
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="experiment")
    pending: set[Future[None]] = set()
    try:
        pending = {
            pool.submit(run.combination, number, one, result)
            for number, (one, result) in enumerate(zip(experiment.combinations, results, strict=True), 1)
        }
        _await(pending)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        run.stop()  # nothing to do where all is done
        pool.shutdown(wait=True, cancel_futures=True)
    return Result(
        experiment,
        results,
        started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        time.monotonic() - started,
        jobs,
        describe_machine(),
        interrupted,
    )


def _await(pending: "set[Future[None]]") -> None:
    """Until all are done. Raises what a worker raised that is no error of the user's."""
    while pending:
        done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
        for one in done:
            one.result()


def prepare_result(combination: Combination) -> CombinationResult:
    """A result in which nothing has been reached yet."""
    steps = [
        StepResult(
            step.name,
            step.kind,
            checked=[Checked(one.key, spell_wanted(one.key, one.wanted), "not reached") for one in step.expect],
        )
        for step in combination.steps
    ]
    return CombinationResult(combination.values, steps=steps)


def describe_machine() -> dict[str, Any]:
    """What figures depend on."""
    return {
        "kernel": platform.release(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        "netsim": __version__,
        "load": round(os.getloadavg()[0], 2),
    }


def _words(error: NetsimError | OSError) -> str:
    if isinstance(error, OSError):
        return str(error)
    text = f"{error.where}: {error.message}" if error.where else error.message
    return f"{text}; next: {error.hint}" if error.hint else text
