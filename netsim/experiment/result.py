"""What came of an experiment, as data. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from netsim.experiment.spec import Experiment, Values, label_of
from netsim.observe.path import Path

# Of an expectation: held, failed, or not reached (an earlier step failed, or the combination could not be run).
Held = Literal["held", "failed", "not reached"]
StepStatus = Literal["done", "error", "not reached"]
Status = Literal["passed", "failed", "error", "skipped", "interrupted"]


@dataclass(frozen=True, slots=True)
class Checked:
    """One expectation and what was found. ``found`` is in words, of several probes of the first that differs."""

    key: str
    text: str
    held: Held
    found: str = ""


@dataclass(frozen=True, slots=True)
class PathGroup:
    """Probes that took the same way."""

    count: int
    path: Path


@dataclass(slots=True)
class StepResult:
    """One step. ``facts`` of a probe are those of the first; ``log`` is what a person may want to read of it."""

    name: str
    kind: str
    status: StepStatus = "not reached"
    elapsed_ms: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    paths: tuple[PathGroup, ...] = ()
    log: tuple[str, ...] = ()
    common: tuple[str, ...] = ()  # of rules: as they are compared, with names for what differs by allocation
    checked: list[Checked] = field(default_factory=list)
    error: str = ""


@dataclass(slots=True)
class CombinationResult:
    """One combination."""

    values: Values
    status: Status = "interrupted"
    why: str = ""  # of skipped and error: in the words of what failed, and what to do next
    elapsed_s: float = 0.0
    up_s: float = 0.0
    steps: list[StepResult] = field(default_factory=list)

    @property
    def label(self) -> str:
        return label_of(self.values)

    def count(self, held: Held) -> int:
        """How many expectations."""
        return sum(one.held == held for step in self.steps for one in step.checked)


@dataclass(frozen=True, slots=True)
class Result:
    """The whole of it. ``machine`` says where it ran: kernel, cores, versions."""

    experiment: Experiment
    combinations: Sequence[CombinationResult]
    started: str  # RFC 3339
    elapsed_s: float
    jobs: int
    machine: Mapping[str, Any]
    interrupted: bool = False

    @property
    def passed(self) -> bool:
        """Whether every combination that can be run here did as expected, and there is one."""
        statuses = [one.status for one in self.combinations]
        return not self.interrupted and set(statuses) <= {"passed", "skipped"} and "passed" in statuses

    def list_reasons(self) -> list[tuple[str, Status, list[str]]]:
        """Why combinations were not run to the end: reason, status, and which, those of the same reason together."""
        found: dict[tuple[str, Status], list[str]] = {}
        for one in self.combinations:
            if one.status in ("skipped", "error", "interrupted") or one.why:
                found.setdefault((one.why, one.status), []).append(self.call(one.label))
        return [(why, status, labels) for (why, status), labels in found.items()]

    def call(self, label: str) -> str:
        """A combination in a sentence: by its label, or where there is no matrix by the experiment's name."""
        return label if self.experiment.matrix else self.experiment.name

    def count(self, status: Status) -> int:
        """How many combinations."""
        return sum(one.status == status for one in self.combinations)
