"""The report: JUnit that parsers read, JSON, HTML that escapes, plots; and that nothing but a report is replaced."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from netsim.experiment.markup import Markup, element
from netsim.experiment.plot import Plot, Scale, Series, list_log_ticks, list_plots, render_plot
from netsim.experiment.report import check_folder, write_report
from netsim.experiment.report_html import render_html
from netsim.experiment.report_json import render_json
from netsim.experiment.report_junit import render_junit
from netsim.experiment.result import CombinationResult, Result
from netsim.model.errors import NetsimError
from tests.unit.experiment.example import make_experiment, make_result

VOID = {"meta", "br"}


class Balance(HTMLParser):
    """Fails on an element that is closed and not open, and keeps what is still open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_junit_has_a_case_for_each_expectation() -> None:
    root = ET.fromstring(render_junit(make_result()))
    assert root.tag == "testsuites"
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == [
        "example size=1 proxyMode=iptables",
        "example size=1 proxyMode=nftables",
        "example size=10 proxyMode=iptables",
        "example size=10 proxyMode=nftables",
    ]
    totals = [[suite.get(key) for key in ("tests", "failures", "errors", "skipped")] for suite in root]
    # expectations: 3 in iptables, 4 in nftables; the third has a case for the step in error beside those not reached
    assert totals == [["3", "0", "0", "0"], ["4", "1", "0", "0"], ["4", "0", "1", "3"], ["4", "0", "0", "4"]]
    assert [root.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["15", "1", "1", "7"]
    for suite in root:
        assert len(suite.findall("testcase")) == int(suite.get("tests", ""))


def test_junit_says_what_was_found_and_why_nothing_was() -> None:
    root = ET.fromstring(render_junit(make_result()))
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.get("message") == 'verdict is delivered; found: </script><b>"x\\x07&'
    error = root.find(".//error")
    assert error is not None
    assert error.get("message") == "it broke"
    assert {one.get("message") for one in list(root)[3].iter("skipped")} == {"the kernel has no <nft>"}


def test_a_combination_without_expectations_is_a_case() -> None:
    result = make_result()
    for one in result.combinations:
        for step in one.steps:
            step.checked = []
    root = ET.fromstring(render_junit(result))
    assert [[case.get("name") for case in suite.iter("testcase")] for suite in root] == [
        ["all steps are done"],
        ["all steps are done"],
        ["probe it: is done"],
        ["all steps are done"],
    ]


def test_json_has_all_of_it() -> None:
    document = json.loads(json.dumps(render_json(make_result())))
    assert document["report"] == "netsim experiment report"
    assert document["passed"] is False
    assert document["totals"]["held"] == 6
    assert document["totals"]["expectationsFailed"] == 1
    assert document["totals"]["notReached"] == 7
    first = document["combinations"][0]
    assert first["values"] == {"size": 1, "proxyMode": "iptables"}
    assert first["steps"][0]["ways"][0]["path"]["verdict"]["outcome"]
    probe = document["differences"][0]
    assert probe["summary"] == "2 paths in 2 combinations"
    assert [group["combinations"] for group in probe["groups"]] == [
        ["size=1 proxyMode=iptables"],
        ["size=1 proxyMode=nftables"],
    ]


@pytest.mark.parametrize(
    ("statuses", "passed"),
    [
        (["passed", "passed"], True),
        (["passed", "skipped"], True),
        (["skipped", "skipped"], False),
        (["passed", "failed"], False),
        (["passed", "error"], False),
        (["passed", "interrupted"], False),
    ],
)
def test_when_it_has_passed(statuses: list[str], passed: bool) -> None:
    result = make_result()
    kept = result.combinations[: len(statuses)]
    for one, status in zip(kept, statuses, strict=True):
        one.status = status  # type: ignore[assignment] # they are literals
    assert replace(result, combinations=kept).passed is passed


def test_without_a_matrix_the_experiments_name_stands_for_its_only_combination() -> None:
    experiment = make_experiment("name: one\nsteps:\n- wait: barrier\n")
    [alone] = experiment.combinations
    result = Result(experiment, [CombinationResult(alone.values, "error", "it broke")], "", 0.0, 1, {})
    assert result.list_reasons() == [("it broke", "error", ["one"])]
    assert make_result().list_reasons()[0][2] == ["size=10 proxyMode=iptables"]


def test_html_is_whole_escaped_and_needs_nothing_else() -> None:
    text = render_html(make_result())
    page = Balance()
    page.feed(text)
    assert page.open == []
    for words in ("Of <everything>.", '</script><b>"x\x07&', "the kernel has no <nft>", "node/elsewhere"):
        assert words in page.text
    assert "<script" not in text
    assert not [word for word in ("http://", "https://", "src=", "@import", "url(") if word in text]


def test_html_of_nothing_that_ran() -> None:
    result = make_result()
    empty = replace(result, combinations=[result.combinations[3]], interrupted=True)
    page = Balance()
    page.feed(render_html(empty))
    assert page.open == []
    assert "interrupted" in page.text


def test_plots_go_by_the_numeric_key() -> None:
    result = make_result()
    done = replace(result, combinations=[result.combinations[0], result.combinations[2]])
    done.combinations[1].steps[1].facts = {"p50Ms": 0.6, "p99Ms": 2.0, "errors": 0}
    plots = list_plots(done.combinations, {"first-packet": ("p50Ms", "errors")})
    assert plots == [
        Plot("how fast", "p50Ms", "size", (Series("proxyMode=iptables", ((1.0, 0.2), (10.0, 0.6))),))
    ]  # nothing is drawn of errors, for there are none
    drawing = render_plot(plots[0])
    root = ET.fromstring(drawing)
    assert len(root.findall(".//circle")) == 2
    assert "proxyMode=iptables, size 10: 0.6 ms" in [title.text for title in root.iter("title")]


def test_plots_without_a_numeric_key_are_bars() -> None:
    plot = Plot("load", "rate", "", tuple(Series(name, ((0.0, value),)) for name, value in (("<a>", 10.0), ("b", 5.0))))
    root = ET.fromstring(render_plot(plot))
    widths = [float(bar.get("width", "")) for bar in root.iter("rect")]
    assert widths[0] == 2 * widths[1]
    assert "10 /s" in [text.text for text in root.iter("text")]


def test_scales() -> None:
    log = Scale(1, 100, 0, 200, log=True)
    assert [log(1), log(10), log(100)] == [0, 100, 200]
    assert list_log_ticks(0.9, 120) == [1, 2, 5, 10, 20, 50, 100]
    assert Scale(0, 10, 100, 0, log=False)(5) == 50
    assert Scale(0, 10, 100, 0, log=False).ticks() == [0, 2, 4, 6, 8, 10]
    assert Scale(3, 3, 0, 10, log=False)(3) == 5


def test_markup_escapes() -> None:
    assert element("a", "<", element("b", "&"), None, ["x", Markup("<i></i>")], title='"<') == (
        '<a title="&quot;&lt;">&lt;<b>&amp;</b>x<i></i></a>'
    )
    assert element("meta", charset="utf-8", open=False, hidden=True) == '<meta charset="utf-8" hidden/>'


def test_a_report_is_written_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        check_folder(folder)
        write_report(make_result(), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["junit.xml", "report.html", "report.json"]
    assert json.loads((folder / "report.json").read_text())["elapsedS"] == 3.25


def test_what_is_no_report_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"my": "own"}')
    with pytest.raises(NetsimError, match="not empty and holds no report"):
        check_folder(tmp_path)
    with pytest.raises(NetsimError, match="cannot write the report"):
        check_folder(tmp_path / "report.json")
