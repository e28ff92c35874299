"""What differs between the combinations of an experiment, for each of its probes and rules. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from netsim.experiment.renaming import Renamer
from netsim.experiment.result import CombinationResult, StepResult
from netsim.experiment.shape import list_way
from netsim.observe.path import Path

Way = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Combinations in which a step found the same ways (or rules): ``ways`` are lines, one way after the other."""

    labels: tuple[str, ...]
    ways: tuple[Way, ...]

    @property
    def lines(self) -> list[str]:
        """All ways one below the other."""
        if len(self.ways) == 1:
            return list(self.ways[0])
        return [line for number, way in enumerate(self.ways, 1) for line in (f"way {number}", *way)]


@dataclass(frozen=True, slots=True)
class Difference:
    """One step in all combinations that reached it. ``places``: how many groups there are when rules are left out."""

    step: str
    kind: str
    groups: tuple[Group, ...]
    places: int

    @property
    def summary(self) -> str:
        """In one line."""
        count = sum(len(group.labels) for group in self.groups)
        if len(self.groups) == 1:
            return "the same in all combinations" if count > 1 else "seen in one combination only"
        if self.kind == "rules":
            return f"{len(self.groups)} kinds of rules in {count} combinations"
        rules = f"by {len(self.groups)} kinds of rules"
        if self.places == 1:
            return f"the same path in all {count} combinations, {rules}"
        if self.places == len(self.groups):
            return f"{self.places} paths in {count} combinations"
        return f"{self.places} paths in {count} combinations, {rules}"


def list_differences(combinations: Sequence[CombinationResult]) -> list[Difference]:
    """For each step that has seen paths or rules, in order."""
    return [
        Difference(name, kind, _group(found, True), len(_group(found, False)))
        for name, kind, found in _list_steps(combinations)
    ]


def _list_steps(
    combinations: Sequence[CombinationResult],
) -> Iterator[tuple[str, str, list[tuple[str, StepResult]]]]:
    steps: dict[tuple[str, str], list[tuple[str, StepResult]]] = {}
    for combination in combinations:
        for step in combination.steps:
            if step.status == "done" and (step.paths or step.kind == "rules"):
                steps.setdefault((step.name, step.kind), []).append((combination.label, step))
    for (name, kind), found in steps.items():
        yield name, kind, found


def _group(found: Sequence[tuple[str, StepResult]], rules: bool) -> tuple[Group, ...]:
    groups: dict[tuple[Way, ...], list[str]] = {}
    for label, step in found:
        groups.setdefault(_ways_of(step, rules), []).append(label)
    return tuple(Group(tuple(labels), ways) for ways, labels in groups.items())


def _ways_of(step: StepResult, rules: bool) -> tuple[Way, ...]:
    """Of several probes each way once, in an order that does not depend on which came first."""
    if step.kind == "rules":
        return (step.common,)
    return tuple(sorted({_way(group.path, rules) for group in step.paths}))


def _way(path: Path, rules: bool) -> Way:
    return tuple(list_way(path, rules=rules, rename=Renamer(path.names)))
