"""Two snapshots compared: what `netsim diff` says. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, unified_diff
from typing import Any

from netsim.experiment.snapshot import Snapshot

_CONTEXT = 2  # unchanged lines around what differs


@dataclass(frozen=True, slots=True)
class Change:
    """One question or one Service's rules that are not the same. None: that side does not have it at all."""

    subject: str
    a: Sequence[str] | None
    b: Sequence[str] | None

    @property
    def lines(self) -> list[str]:
        """As `diff -u` has them, without its head."""
        return list(unified_diff(self.a or [], self.b or [], lineterm="", n=_CONTEXT))[2:]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs."""

    a: Snapshot
    b: Snapshot
    topology: tuple[str, ...]
    ways: tuple[Change, ...]
    rules: tuple[Change, ...]

    @property
    def equal(self) -> bool:
        """Whether paths and rules are the same."""
        return not (self.topology or self.ways or self.rules)


def compare(a: Snapshot, b: Snapshot) -> Comparison:
    """What differs from ``a`` to ``b``."""
    keys = [*a.topology, *(key for key in b.topology if key not in a.topology)]
    topology = [
        f"{key}: {_spell(a.topology.get(key))} | {_spell(b.topology.get(key))}"
        for key in keys
        if a.topology.get(key) != b.topology.get(key)
    ]
    return Comparison(a, b, tuple(topology), tuple(_changes(a.ways, b.ways)), tuple(_changes(a.rules, b.rules)))


def _changes(a: Mapping[str, Sequence[str]], b: Mapping[str, Sequence[str]]) -> Iterator[Change]:
    for key in [*a, *(key for key in b if key not in a)]:
        mine, other = a.get(key), b.get(key)
        if mine is None or other is None or list(mine) != list(other):
            yield Change(key, mine, other)


def _spell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def render_comparison_text(found: Comparison) -> str:
    """For people: what is the same is counted, what is not is shown as ``diff -u`` does."""
    a, b = found.a, found.b
    lines = [f"--- {a.cluster} at {a.taken}", f"+++ {b.cluster} at {b.taken}"]
    lines += [f"note: {note}" for note in dict.fromkeys((*a.notes, *b.notes))]
    lines += [f"topology: {line}" for line in found.topology]
    for title, changes, total in (
        ("paths", found.ways, len(set(a.ways) | set(b.ways))),
        ("rules", found.rules, len(set(a.rules) | set(b.rules))),
    ):
        lines.append(f"{title}: {len(changes)} of {total} differ" if changes else f"{title}: all {total} are the same")
        for same in _gather(changes):
            first = same[0]
            if first.a is None or first.b is None:
                lines += [f"  only in {b.cluster if first.a is None else a.cluster}: {one.subject}" for one in same]
                continue
            lines += ["", *(f"  {one.subject}" for one in same), *(f"    {line}" for line in first.lines)]
    return "\n".join(lines) + "\n"


def _gather(changes: Sequence[Change]) -> list[list[Change]]:
    """Those that differ in the same way are shown once: a Service's rules do so on every node."""
    groups: dict[tuple[Any, ...], list[Change]] = {}
    for one in changes:
        key: tuple[Any, ...] = ("only", one.a is None) if one.a is None or one.b is None else tuple(one.lines)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def render_comparison(found: Comparison) -> dict[str, Any]:
    """As JSON has it."""

    def changes(of: Sequence[Change]) -> list[dict[str, Any]]:
        return [{"subject": one.subject, **_sides(one)} for one in of]

    return {
        "equal": found.equal,
        "a": {"cluster": found.a.cluster, "taken": found.a.taken},
        "b": {"cluster": found.b.cluster, "taken": found.b.taken},
        "topology": list(found.topology),
        "paths": changes(found.ways),
        "rules": changes(found.rules),
        "notes": list(dict.fromkeys((*found.a.notes, *found.b.notes))),
    }


def _sides(change: Change) -> dict[str, Any]:
    a, b = list(change.a or ()), list(change.b or ())
    codes = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return {
        "inA": change.a is not None,
        "inB": change.b is not None,
        "onlyInA": [line for tag, i, j, _, _ in codes if tag != "equal" for line in a[i:j]],
        "onlyInB": [line for tag, _, _, i, j in codes if tag != "equal" for line in b[i:j]],
    }
