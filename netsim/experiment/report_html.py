"""A result as one HTML page that needs nothing else: verdicts, plots, differences, and each combination. Pure."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from netsim.experiment.differences import Difference, list_differences
from netsim.experiment.kinds import STEP_KINDS
from netsim.experiment.markup import Child, Markup, element, join
from netsim.experiment.plot import list_plots, render_plot, spell_number
from netsim.experiment.report_json import render_totals
from netsim.experiment.result import CombinationResult, Result, StepResult
from netsim.experiment.shape import align
from netsim.experiment.spec import spell
from netsim.observe.pathtext import render_text

_SIGNS = {"held": "✓", "failed": "✗", "not reached": "-"}
_MOST_TEXT = 20_000  # characters of one fact or log that the page shows


def render_html(result: Result) -> str:
    """The content of report.html."""
    style = files("netsim.experiment").joinpath("report.css").read_text(encoding="utf-8")
    experiment = result.experiment
    differences = list_differences(result.combinations)
    body = element(
        "body",
        element(
            "main",
            _head(result),
            element("h2", "Verdicts"),
            _verdicts(result),
            _figures(result),
            _differences(differences),
            element("h2", "Combinations"),
            *[_combination(one) for one in result.combinations],
        ),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", experiment.title),
        element("style", Markup(style)),
    )
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"


def _head(result: Result) -> Markup:
    experiment, totals, machine = result.experiment, render_totals(result), result.machine
    verdict = "interrupted" if result.interrupted else ("all as expected" if result.passed else "not as expected")
    style = "failed" if not result.passed else "held"
    counts = [f"{totals[key]} {key}" for key in ("passed", "failed", "error", "skipped", "interrupted") if totals[key]]
    expectations = (
        f"{totals['held']} expectations held, {totals['expectationsFailed']} failed, {totals['notReached']} not reached"
    )
    where = "Linux {kernel}, {cores} cores, Python {python}, netsim {netsim}".format(**machine)
    when = f"{result.started}, {result.elapsed_s:.1f} s, {result.jobs} at a time, load average then {machine['load']}"
    return element(
        "header",
        element("h1", experiment.title),
        *[element("p", part) for part in experiment.about.split("\n\n") if part],
        element(
            "p",
            element("strong", verdict, class_=style),
            f": {', '.join(counts)} of {totals['combinations']} combinations; {expectations}.",
        ),
        element("p", f"{experiment.file}; {where}; {when}.", class_="faint"),
        _reasons(result),
    )


def _reasons(result: Result) -> Markup | None:
    """What was not run is told at the top, not only where one would have to look for it."""
    items = [
        element("li", element("b", ", ".join(labels)), f" {status}", f": {why}" if why else "")
        for why, status, labels in result.list_reasons()
    ]
    return (
        element("div", element("b", "Not run to the end:"), element("ul", *items), class_="notice") if items else None
    )


# Verdicts


def _verdicts(result: Result) -> Markup:
    """Steps down, combinations across."""
    combinations = result.combinations
    rows = []
    for key in result.experiment.matrix:
        cells = [element("th", spell(one.values[key])) for one in combinations]
        rows.append(element("tr", element("th", key, class_="key"), *cells))
    state = [element("td", one.status, class_=f"state {one.status}", title=one.why or None) for one in combinations]
    rows.append(element("tr", element("th", "result", class_="key"), *state))
    names = dict.fromkeys(step.name for one in combinations for step in one.steps)
    for name in names:
        cells = [_verdict_cell(next((s for s in one.steps if s.name == name), None)) for one in combinations]
        rows.append(element("tr", element("th", name, class_="step"), *cells))
    return element("div", element("table", *rows, class_="verdicts"), class_="wide")


def _verdict_cell(step: StepResult | None) -> Markup:
    if step is None:
        return element("td", "", class_="none")
    if step.status == "error":
        return element("td", element("span", "error", class_="failed"), title=step.error)
    if step.status == "not reached":
        return element("td", _SIGNS["not reached"], class_="none")
    failed = [one for one in step.checked if one.held == "failed"]
    sign: Child = None
    if step.checked:
        style = "failed" if failed else "held"
        sign = element("span", _SIGNS[style], class_=style)
    words: list[Child] = [element("div", f"{one.text}: found {one.found}", class_="failed small") for one in failed]
    return element("td", sign, " ", summarise(step), *words)


def summarise(step: StepResult) -> str:
    """What a step found, in a few words."""
    facts = step.facts
    match step.kind:
        case "probe":
            text = str(facts.get("verdict", ""))
            if facts.get("seenAs"):
                text += f", client seen as {facts['seenAs']}"
            return text + (f" by {facts['endpoints']} endpoints" if facts.get("endpoints", 1) > 1 else "")
        case "exec":
            return f"exit status {facts.get('exit')}"
        case "rules":
            return f"{facts.get('count')} lines"
        case "load" | "first-packet" | "rule-update":
            if "p50Ms" not in facts:
                return f"{facts.get('errors')} errors"
            text = f"p50 {spell_number(facts['p50Ms'])} ms, p99 {spell_number(facts['p99Ms'])} ms"
            return text + (f", {facts['errors']} errors" if facts.get("errors") else "")
        case "sync" | "services":
            return f"{spell_number(facts['ms'])} ms" if "ms" in facts else ""
        case _:
            return "done"


# Figures


def _figures(result: Result) -> Markup | None:
    figures = {kind: described.figures for kind, described in STEP_KINDS.items() if described.figures}
    plots = list_plots(result.combinations, figures)
    if not plots:
        return None
    return join(element("h2", "Figures"), element("div", *[render_plot(plot) for plot in plots], class_="plots"))


# Differences


def _differences(differences: Sequence[Difference]) -> Markup | None:
    if not differences:
        return None
    return join(
        element("h2", "Differences between combinations"),
        element("p", "Ports chosen by chance, times and counters are left out.", class_="faint"),
        *[_difference(one) for one in differences],
    )


def _difference(difference: Difference) -> Markup:
    columns = [group.lines for group in difference.groups]
    head = element("tr", *[element("th", *_labels(group.labels)) for group in difference.groups])
    rows = [head]
    for row in align(columns):
        same = len(set(row)) == 1
        cells = [
            element("td", cell or "", class_=None if same else ("gap" if cell is None else "other")) for cell in row
        ]
        rows.append(element("tr", *cells))
    table = element("div", element("table", *rows, class_="sides"), class_="wide")
    summary = element("summary", element("b", difference.step), f": {difference.summary}")
    return element("details", summary, table, open=len(columns) > 1)


def _labels(labels: Sequence[str]) -> list[Child]:
    return [element("div", label) for label in labels]


# Combinations


def _combination(result: CombinationResult) -> Markup:
    facts = f"{result.elapsed_s:.1f} s, of which {result.up_s:.1f} s to bring the cluster up"
    summary = element(
        "summary", element("b", result.label), " ", element("span", result.status, class_=f"state {result.status}")
    )
    why = element("p", result.why, class_="failed") if result.why else None
    steps = [_step(step) for step in result.steps]
    return element("details", summary, element("p", facts, class_="faint"), why, *steps)


def _step(step: StepResult) -> Markup:
    took = f"{step.elapsed_ms:.0f} ms" if step.status == "done" else step.status
    parts: list[Child] = [element("h4", step.name, element("span", f" {step.kind}, {took}", class_="faint"))]
    if step.error:
        parts.append(element("p", step.error, class_="failed"))
    if step.checked:
        items = [
            element("li", element("span", _SIGNS[one.held], class_=one.held.replace(" ", "-")), f" {one.text}",
                    f"; found: {one.found}" if one.held == "failed" else "")
            for one in step.checked
        ]  # fmt: skip
        parts.append(element("ul", *items, class_="checks"))
    numbers = {key: value for key, value in step.facts.items() if isinstance(value, int | float)}
    if numbers and step.kind != "probe":
        parts.append(element("p", ", ".join(f"{key} {_spell(value)}" for key, value in numbers.items())))
    if step.log:
        parts.append(element("pre", _cut("\n".join(step.log))))
    for group in step.paths:
        head = f"{group.count} of {sum(g.count for g in step.paths)}: " if len(step.paths) > 1 else ""
        words = element("summary", f"{head}the way, hop by hop")
        parts.append(element("details", words, element("pre", _cut(render_text(group.path)))))
    return element("section", *parts)


def _spell(value: Any) -> str:
    return spell_number(value) if isinstance(value, float) else f"{value:,}"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}\n... (report.json has all of it)"
