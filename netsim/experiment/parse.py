"""The file of an experiment, read and checked whole, for every combination, before anything starts. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from netsim.experiment.checks import find_fault, find_outcome_fault
from netsim.experiment.kinds import STEP_KINDS, StepKind
from netsim.experiment.spec import (
    Combination,
    Expectation,
    Experiment,
    Manifest,
    Step,
    applies,
    fill,
    fill_text,
    label_of,
    list_references,
    list_values,
)
from netsim.model.config import CONFIG_KEYS, parse_config
from netsim.model.errors import InputError, NetsimError
from netsim.model.kinds import find_kind
from netsim.model.manifests import SourceDocument, SourceObject, parse_documents, parse_manifests
from netsim.model.names import check_object_name

MOST_COMBINATIONS = 500
_KEYS = ("name", "title", "about", "topology", "matrix", "manifests", "steps")
_STEP_KEYS = ("name", "when", "expect")
_AXES = tuple(key for key in CONFIG_KEYS if key != "name")  # keys of the matrix that are the topology's
ReadManifest = Callable[[str], str]  # the name of a file, beside the experiment's -> its text; raises InputError


def parse_experiment(text: str, file: str, read_manifest: ReadManifest) -> Experiment:
    """The experiment that ``text`` describes. Raises InputError with FILE:LINE and the field."""
    documents = parse_documents(text, file)
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        raise InputError("an experiment is one YAML document with name and steps", where=file, hint=_keys_hint())
    return _Parser(documents[0], read_manifest).experiment()


def _keys_hint() -> str:
    return f"known fields: {', '.join(_KEYS)}; docs/experiments.md explains them"


@dataclass(slots=True)
class _Parser:
    """One file being read."""

    source: SourceDocument
    read_manifest: ReadManifest

    def fail(self, path: str, message: str, hint: str = "") -> InputError:
        return InputError(f"{path}: {message}" if path else message, where=self.source.position_of(path), hint=hint)

    def experiment(self) -> Experiment:
        document = self.source.value
        self._known("", document, _KEYS)
        name = document.get("name")
        if not isinstance(name, str):
            raise self.fail("name", "missing" if name is None else "must be text")
        self._told("name", lambda: check_object_name(name))
        matrix = self._matrix(document.get("matrix") or {})
        topology = self._mapping("topology", document.get("topology") or {})
        manifests = self._manifests(document.get("manifests") or [])
        steps = self._steps(document.get("steps"), matrix)
        self._check_use(matrix, topology, manifests, steps)
        combinations = tuple(self._combine(values, topology, manifests, steps) for values in list_values(matrix))
        used = {step.kind for combination in combinations for step in combination.steps}
        return Experiment(
            name,
            str(document.get("title") or name),
            str(document.get("about") or "").strip(),
            self.source.file,
            matrix,
            combinations,
            measuring=any(STEP_KINDS[kind].measuring for kind in used),
        )

    # The parts of a file

    def _matrix(self, value: Any) -> dict[str, list[Any]]:
        matrix = self._mapping("matrix", value)
        for key, values in matrix.items():
            path = f"matrix.{key}"
            if key == "name":
                raise self.fail(path, "can't be in the matrix: each combination's cluster has a name of its own")
            if not isinstance(values, list) or not values:
                raise self.fail(path, "must be a list of values")
            if any(isinstance(item, dict | list) or item is None for item in values):
                raise self.fail(path, "its values must be texts, numbers, true or false")
            if len({str(item) for item in values}) != len(values):
                raise self.fail(path, "a value is there twice")
        if prod(map(len, matrix.values())) > MOST_COMBINATIONS:
            raise self.fail("matrix", f"makes more than {MOST_COMBINATIONS} combinations")
        return matrix

    def _manifests(self, value: Any, path: str = "manifests") -> tuple[Manifest, ...]:
        if not isinstance(value, list):
            value = [value]
        found = []
        for index, item in enumerate(value):
            at = f"{path}[{index}]"
            if isinstance(item, dict):
                found.append(Manifest(_render_yaml(item), self.source.position_of(at), inline=True))
            elif isinstance(item, str) and item:
                try:
                    found.append(Manifest(self.read_manifest(item), item))
                except InputError as error:
                    raise self.fail(at, f"{error.where}: {error.message}" if error.where else error.message) from error
            else:
                raise self.fail(at, "must be the name of a file, or an object")
        return tuple(found)

    def _steps(self, value: Any, matrix: Mapping[str, Sequence[Any]]) -> list[Step]:
        if not isinstance(value, list) or not value:
            raise self.fail("steps", "missing" if value is None else "must be a list of steps, one at least")
        steps = [self._step(item, f"steps[{index}]", matrix) for index, item in enumerate(value)]
        names: dict[str, str] = {}
        for step in steps:
            if step.name in names:
                raise InputError(
                    f'there is another step "{step.name}" at {names[step.name]}',
                    where=step.where,
                    hint="give each step a name of its own: reports tell them apart by it",
                )
            names[step.name] = step.where
        return steps

    def _step(self, value: Any, path: str, matrix: Mapping[str, Sequence[Any]]) -> Step:
        if not isinstance(value, dict):
            raise self.fail(path, "must be an object such as {wait: barrier}")
        kinds = [key for key in value if key in STEP_KINDS]
        self._known(path, value, (*_STEP_KEYS, *STEP_KINDS))
        if len(kinds) != 1:
            raise self.fail(path, "must say one thing to do" if kinds else "says nothing to do", _kinds_hint())
        kind = STEP_KINDS[kinds[0]]
        given = value[kinds[0]]
        if not isinstance(given, dict) or (kinds[0] == "apply" and "manifests" not in given):
            if not kind.shorthand:
                raise self.fail(f"{path}.{kinds[0]}", "must be an object", _arguments_hint(kind))
            given = {kind.shorthand: given}
        arguments = {key: item for key, item in given.items() if item is not None}
        self._check_names(f"{path}.{kinds[0]}", arguments, kind)
        if kinds[0] == "apply":
            arguments["manifests"] = self._manifests(arguments["manifests"], f"{path}.apply.manifests")
        name = value.get("name") or _name_step(kinds[0], arguments)
        if not isinstance(name, str):
            raise self.fail(f"{path}.name", "must be text")
        when = self._when(value.get("when"), f"{path}.when", matrix)
        expect = tuple(self._expect(value.get("expect"), f"{path}.expect", kinds[0], matrix))
        return Step(name, kinds[0], arguments, when, expect, self.source.position_of(path))

    def _check_names(self, path: str, arguments: Mapping[str, Any], kind: StepKind) -> None:
        for key in kind.required:
            if key not in arguments:
                raise self.fail(path, f'"{key}" is missing', _arguments_hint(kind))
        if kind.rest is None:
            self._known(path, arguments, (*kind.required, *kind.optional))

    def _expect(self, value: Any, path: str, kind: str, matrix: Mapping[str, Sequence[Any]]) -> Iterator[Expectation]:
        if value is None:
            return
        facts = STEP_KINDS[kind].facts
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            at = f"{path}[{index}]" if isinstance(value, list) else path
            if not isinstance(item, dict) or not item:
                raise self.fail(at, "must be an object of facts and what they must be")
            when = self._when(item.get("when"), f"{at}.when", matrix)
            self._known(at, item, ("when", *facts))
            for key, wanted in item.items():
                if key == "when":
                    continue
                yield Expectation(key, wanted, when, self.source.position_of(f"{at}.{key}"))

    def _when(self, value: Any, path: str, matrix: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        when = self._mapping(path, value or {})
        for key, wanted in when.items():
            if key not in matrix:
                raise self.fail(f"{path}.{key}", "the matrix has no such key", f"it has: {', '.join(matrix) or 'none'}")
            for one in wanted if isinstance(wanted, list) else [wanted]:
                if one not in matrix[key]:
                    raise self.fail(f"{path}.{key}", f"{one!r} is not among the matrix's values {matrix[key]}")
        return when

    # Combinations

    def _check_use(
        self,
        matrix: Mapping[str, Sequence[Any]],
        topology: Mapping[str, Any],
        manifests: Sequence[Manifest],
        steps: Sequence[Step],
    ) -> None:
        """A key that changes nothing is a mistake: the same network would be shown twice as if it were two."""
        used = list_references([topology, [m.text for m in manifests]]) | set(_AXES)
        for step in steps:
            texts = [m.text for m in step.arguments["manifests"]] if step.kind == "apply" else step.arguments
            used |= list_references([texts, [e.wanted for e in step.expect], step.name]) | set(step.when)
        for key in matrix:
            if key in topology:
                raise self.fail(f"topology.{key}", "is in the matrix too")
            if key not in used:
                hint = f"use it as ${{{key}}} in a manifest, a step or the topology"
                raise self.fail(f"matrix.{key}", "changes nothing: it is used nowhere", hint)

    def _combine(
        self,
        values: Mapping[str, Any],
        topology: Mapping[str, Any],
        manifests: Sequence[Manifest],
        steps: Sequence[Step],
    ) -> Combination:
        where = self.source.position_of("topology")
        filled = fill(topology, values, where) | {key: values[key] for key in _AXES if key in values}
        of = label_of(values) if values else ""
        self._told("topology", lambda: parse_config({"nodes": 3, **filled, "name": "experiment"}), of)
        chosen = [step for step in steps if applies(step.when, values)]
        return Combination(
            values,
            filled,
            tuple(item for manifest in manifests for item in read_filled(manifest, values)),
            tuple(self._fill_steps(chosen, values)),
        )

    def _fill_steps(self, steps: Sequence[Step], values: Mapping[str, Any]) -> Iterator[Step]:
        faults = {"all"}
        for step in (self._fill_step(one, values) for one in steps):
            if step.kind == "fault":
                faults.add(step.name)
            elif step.kind == "undo" and step.arguments["fault"] not in faults:
                message = f'undo: no step "{step.arguments["fault"]}" before it makes a fault'
                raise InputError(message, where=step.where, hint="write the name of a fault's step, or all")
            yield step

    def _fill_step(self, step: Step, values: Mapping[str, Any]) -> Step:
        kind = STEP_KINDS[step.kind]
        if step.kind == "apply":
            objects = [item for manifest in step.arguments["manifests"] for item in read_filled(manifest, values)]
            arguments: dict[str, Any] = {**step.arguments, "manifests": objects}
        else:
            arguments = fill(step.arguments, values, step.where)
        checks = {**kind.required, **kind.optional}
        for key, value in arguments.items():
            check = checks.get(key, kind.rest)
            problem = check(value) if check else ""
            if problem:
                raise InputError(f"{step.kind}.{key}: {problem}", where=step.where, hint=_of(values))
        self._check_deeper(step, arguments, values)
        expect = []
        for one in step.expect:
            if applies(one.when, values):
                wanted = fill(one.wanted, values, one.where)
                problem = find_fault(kind.facts[one.key], wanted)
                if problem := problem or (find_outcome_fault(wanted) if one.key == "verdict" else ""):
                    raise InputError(f"expect.{one.key}: {problem}", where=one.where, hint=_of(values))
                expect.append(replace(one, wanted=wanted))
        return replace(step, name=fill_text(step.name, values, step.where), arguments=arguments, expect=tuple(expect))

    def _check_deeper(self, step: Step, arguments: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """What others know how to check: faults, kinds of objects, durations."""
        from netsim.faults.fault import parse_fault
        from netsim.faults.values import parse_duration

        try:
            if (
                step.kind == "fault" and arguments["kind"] != "kill"
            ):  # that one is done and over, and no fault that stays
                parse_fault(fault_request(arguments))
            elif step.kind in ("delete", "patch"):
                find_kind(arguments["kind"])
                check_object_name(arguments["name"])
            elif step.kind == "wait" and arguments["for"] != "barrier":
                parse_duration(arguments["for"], "wait")
        except NetsimError as error:
            raise InputError(
                f"{step.kind}: {error.message}", where=step.where, hint=error.hint or _of(values)
            ) from error

    # Small things

    def _known(self, path: str, value: Mapping[str, Any], keys: Sequence[str]) -> None:
        for key in value:
            if key not in keys:
                at = f"{path}.{key}" if path else key
                raise InputError(
                    f'unknown field "{at}"', where=self.source.position_of(at), hint=f"known here: {', '.join(keys)}"
                )

    def _mapping(self, path: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(path, "must be an object")
        return value

    def _told(self, path: str, check: Callable[[], object], of: str = "") -> None:
        """Run a check of another module; what it says is told with our file and line."""
        try:
            check()
        except NetsimError as error:
            hint = error.hint or (f"of {of}" if of else "")
            raise InputError(f"{path}: {error.message}", where=self.source.position_of(path), hint=hint) from error


def read_filled(manifest: Manifest, values: Mapping[str, Any]) -> list[SourceObject]:
    """A manifest's objects with the references put in. Raises InputError with its file and line."""
    try:
        return parse_manifests(fill_text(manifest.text, values, manifest.file), manifest.file)
    except InputError as error:
        if manifest.inline:  # the lines of its text are those of no file
            error.where = manifest.file
        raise


def fault_request(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A fault step's arguments as `netsim.faults` takes them."""
    values = {key: value for key, value in arguments.items() if key not in ("at", "direction")}
    places = arguments["at"] if isinstance(arguments["at"], list) else [arguments["at"]]
    if "direction" in arguments:
        values["direction"] = arguments["direction"]
    if arguments["kind"] == "partition":
        return values | {"sets": [[one] if isinstance(one, str) else one for one in places]}
    return values | {"places": places}


def _render_yaml(value: Any) -> str:
    import yaml  # of objects written in the experiment itself only

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _name_step(kind: str, arguments: Mapping[str, Any]) -> str:
    """What a step without a name is called."""
    match kind:
        case "probe" | "load" | "first-packet":
            protocol = f" by {arguments['protocol']}" if "protocol" in arguments else ""
            return f"{kind} {arguments['from']} to {arguments['to']}{protocol}"
        case "fault":
            return f"fault {arguments['kind']} at {arguments['at']}"
        case "scale":
            return f"scale {arguments['deployment']} to {arguments['replicas']}"
        case "exec":
            return f"exec in {arguments['in']}"
        case "rules":
            return f"rules of {arguments['service']}"
        case "services" | "wait":
            return f"{kind} {next(iter(arguments.values()))}"
        case "delete" | "patch":
            return f"{kind} {arguments['kind']} {arguments['name']}"
        case _:
            return kind


def _kinds_hint() -> str:
    return f"one of: {', '.join(STEP_KINDS)}"


def _arguments_hint(kind: StepKind) -> str:
    optional = f"; optional: {', '.join(kind.optional)}" if kind.optional else ""
    return f"needed: {', '.join(kind.required) or 'nothing'}{optional}"


def _of(values: Mapping[str, Any]) -> str:
    return f"in the combination {label_of(values)}" if values else ""
