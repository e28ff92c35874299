"""A result as JUnit XML, for CI: one test suite for each combination, one test case for each expectation. Pure.

The form is the one that Jenkins, GitLab and GitHub's actions read (https://github.com/testmoapp/junitxml).
"""

import re
import xml.etree.ElementTree as ET

from netsim.experiment.result import Checked, CombinationResult, Result, StepResult

# What XML 1.0 can't carry, not even escaped (https://www.w3.org/TR/xml/#charsets).
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(result: Result) -> str:
    """The content of junit.xml."""
    root = ET.Element("testsuites", name=_clean(result.experiment.name), time=f"{result.elapsed_s:.3f}")
    for combination in result.combinations:
        _add_suite(root, result, combination)
    for total in ("tests", "failures", "errors", "skipped"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_suite(root: ET.Element, result: Result, combination: CombinationResult) -> None:
    name = result.experiment.name if combination.label == "-" else f"{result.experiment.name} {combination.label}"
    suite = ET.SubElement(root, "testsuite", name=_clean(name), time=f"{combination.elapsed_s:.3f}")
    suite.set("timestamp", result.started.removesuffix("Z"))
    properties = ET.SubElement(suite, "properties") if combination.values else None
    for key, value in combination.values.items():
        if properties is not None:
            ET.SubElement(properties, "property", name=key, value=_clean(str(value)))
    for step in combination.steps:
        for one in step.checked:
            _add_expectation(suite, name, step, one, combination)
        if step.status == "error":
            kind = "skipped" if combination.status == "skipped" else "error"
            _add_case(suite, name, f"{step.name}: is done", step.elapsed_ms, kind, step.error)
    if not any(case.tag == "testcase" for case in suite) or _fell_before_its_steps(combination):
        kind = {"passed": "", "failed": "failure", "error": "error"}.get(combination.status, "skipped")
        _add_case(suite, name, "all steps are done", combination.elapsed_s * 1000, kind, combination.why)
    cases = list(suite.iter("testcase"))
    suite.set("tests", str(len(cases)))
    for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(total, str(sum(case.find(tag) is not None for case in cases)))


def _fell_before_its_steps(combination: CombinationResult) -> bool:
    """Its cluster or its manifests failed: no step shows the error."""
    return combination.status == "error" and all(step.status != "error" for step in combination.steps)


def _add_expectation(
    suite: ET.Element, name: str, step: StepResult, one: Checked, combination: CombinationResult
) -> None:
    kind, message = {
        "held": ("", ""),
        "failed": ("failure", f"{one.text}; found: {one.found}"),
        "not reached": ("skipped", combination.why or combination.status),
    }[one.held]
    _add_case(suite, name, f"{step.name}: {one.text}", step.elapsed_ms / max(1, len(step.checked)), kind, message)


def _add_case(suite: ET.Element, of: str, name: str, took_ms: float, kind: str, message: str) -> None:
    case = ET.SubElement(suite, "testcase", classname=_clean(of), name=_clean(name), time=f"{took_ms / 1000:.3f}")
    if kind:
        ET.SubElement(case, kind, message=_clean(message)).text = _clean(message)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
