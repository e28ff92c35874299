"""A result as JSON: docs/experiments.md explains the fields. Pure."""

from typing import Any

from netsim.experiment.differences import list_differences
from netsim.experiment.result import CombinationResult, Result, StepResult
from netsim.observe.pathjson import render_path

MARK = "netsim experiment report"  # by which a report is known that may be replaced
VERSION = 1


def render_json(result: Result) -> dict[str, Any]:
    """The content of report.json."""
    experiment = result.experiment
    return {
        "report": MARK,
        "version": VERSION,
        "experiment": {
            "name": experiment.name,
            "title": experiment.title,
            "about": experiment.about,
            "file": experiment.file,
            "matrix": {key: list(values) for key, values in experiment.matrix.items()},
        },
        "started": result.started,
        "elapsedS": round(result.elapsed_s, 3),
        "jobs": result.jobs,
        "machine": dict(result.machine),
        "interrupted": result.interrupted,
        "passed": result.passed,
        "totals": render_totals(result),
        "combinations": [_render_combination(one) for one in result.combinations],
        "differences": [
            {
                "step": one.step,
                "summary": one.summary,
                "groups": [
                    {"combinations": list(group.labels), "ways": [list(way) for way in group.ways]}
                    for group in one.groups
                ],
            }
            for one in list_differences(result.combinations)
        ],
    }


def render_totals(result: Result) -> dict[str, int]:
    """How many combinations and expectations there are of each kind."""
    statuses = ("passed", "failed", "error", "skipped", "interrupted")
    return {
        "combinations": len(result.combinations),
        **{status: result.count(status) for status in statuses},  # type: ignore[arg-type] # they are literals
        "held": sum(one.count("held") for one in result.combinations),
        "expectationsFailed": sum(one.count("failed") for one in result.combinations),
        "notReached": sum(one.count("not reached") for one in result.combinations),
    }


def _render_combination(result: CombinationResult) -> dict[str, Any]:
    return {
        "values": dict(result.values),
        "label": result.label,
        "status": result.status,
        "why": result.why,
        "elapsedS": round(result.elapsed_s, 3),
        "upS": round(result.up_s, 3),
        "steps": [_render_step(step) for step in result.steps],
    }


def _render_step(step: StepResult) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": step.name,
        "kind": step.kind,
        "status": step.status,
        "elapsedMs": round(step.elapsed_ms, 3),
        "facts": step.facts,
        "expectations": [
            {"fact": one.key, "text": one.text, "status": one.held, "found": one.found} for one in step.checked
        ],
    }
    if step.error:
        document["error"] = step.error
    if step.paths:
        document["ways"] = [{"count": group.count, "path": render_path(group.path)} for group in step.paths]
    if step.log:
        document["log"] = list(step.log)
    return document
