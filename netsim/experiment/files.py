"""Where experiments come from: a file, or one of those that are shipped with netsim."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from netsim.client.manifest_files import read_text
from netsim.experiment.parse import parse_experiment
from netsim.experiment.spec import Experiment, spell
from netsim.model.errors import UsageError

_SHIPPED = "shipped"


def list_shipped() -> list[Path]:
    """The files of the experiments that come with netsim, by name."""
    folder = Path(str(files("netsim.experiment").joinpath(_SHIPPED)))
    return sorted(path for path in folder.glob("*.yaml") if not path.name.endswith(".manifest.yaml"))


def find_file(name: str) -> Path:
    """A file, or the name of one that is shipped. Raises UsageError."""
    path = Path(name)
    if path.exists():
        return path
    shipped = {one.stem: one for one in list_shipped()}
    if name in shipped:
        return shipped[name]
    hint = f"those shipped are: {', '.join(shipped)}"
    raise UsageError(f'there is no file "{name}", and no experiment of that name', hint=hint)


def read_experiment(path: Path) -> Experiment:
    """Raises InputError with file, line and field."""

    def read_manifest(name: str) -> str:
        return read_text(path.parent / name)

    return parse_experiment(read_text(path), str(path), read_manifest)


def choose_combinations(experiment: Experiment, only: Mapping[str, list[str]]) -> Experiment:
    """Those with one of these values for each of these keys; values as they are written. Raises UsageError."""
    for key, wanted in only.items():
        if key not in experiment.matrix:
            known = ", ".join(experiment.matrix) or "none"
            raise UsageError(f"--only {key}: the matrix has no such key", hint=f"it has: {known}")
        values = [spell(value) for value in experiment.matrix[key]]
        if unknown := [one for one in wanted if one not in values]:
            raise UsageError(f"--only {key}={unknown[0]}: no such value", hint=f"the matrix has: {', '.join(values)}")
    kept = tuple(one for one in experiment.combinations if all(spell(one.values[key]) in only[key] for key in only))
    matrix = {
        key: [value for value in values if key not in only or spell(value) in only[key]]
        for key, values in experiment.matrix.items()
    }
    return replace(experiment, combinations=kept, matrix=matrix)
