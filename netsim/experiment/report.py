"""The folder of a report: report.html, report.json and junit.xml. Only a report is ever replaced."""

import json
import os
from pathlib import Path

from netsim.experiment.report_html import render_html
from netsim.experiment.report_json import MARK, render_json
from netsim.experiment.report_junit import render_junit
from netsim.experiment.result import Result
from netsim.model.errors import NetsimError

_JSON = "report.json"


def check_folder(folder: Path) -> None:
    """Make the folder, before anything runs. Raises NetsimError: it can't be written, or holds something else."""
    hint = "choose another one: --out DIR"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not _is_report(folder):
            raise NetsimError(
                "the folder is not empty and holds no report of an experiment", where=str(folder), hint=hint
            )
        probe = folder / f".{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise NetsimError(f"cannot write the report: {error.strerror}", where=str(folder), hint=hint) from error


def _is_report(folder: Path) -> bool:
    try:
        document = json.loads((folder / _JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("report") == MARK


def write_report(result: Result, folder: Path) -> None:
    """All three files, each in one step; report.json comes first, so that a half-written folder is still a report.

    Raises NetsimError in the kernel's words: a full disk, a folder that was taken away.
    """
    contents = {
        _JSON: json.dumps(render_json(result), indent=1, ensure_ascii=False) + "\n",
        "junit.xml": render_junit(result),
        "report.html": render_html(result),
    }
    for name, text in contents.items():
        draft = folder / f".{name}.{os.getpid()}"
        try:
            draft.write_text(text, encoding="utf-8", errors="backslashreplace")
            draft.replace(folder / name)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise NetsimError(f"cannot write the report: {error.strerror}", where=str(folder / name)) from error
