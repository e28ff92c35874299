"""Explanations as text: the likeliest way at length, the others in a line, at a terminal's width."""

from dataclasses import replace

from netsim.observe.explain.answer import dump_explanation, load_explanation, render_explanation
from netsim.observe.explain.predict import Explanation, Way
from netsim.observe.path import Path
from tests.unit.observe.test_path_json import make_path

SUMMARY = """\
ways (--all-ways shows each at length):
   67%  delivered by pod/default/web-0, which sees
          10.244.0.1
   33%  dropped at node/node-1, on its way to
          10.244.0.3:8080"""


def delivered(path: Path) -> Path:
    verdict = replace(path.verdict, outcome="delivered", place="pod/default/web-0", cause="")
    return replace(path, verdict=verdict, answered_by="pod/default/web-0", seen_source="10.244.0.1")


def test_other_ways_are_told_in_a_line_at_the_terminals_width() -> None:
    path = make_path()
    found = Explanation(path.question, (Way(2 / 3, delivered(path)), Way(1 / 3, path)), complete=True, notes=())
    narrow = render_explanation(found, width=50)
    assert narrow.startswith("one of 2 ways: 1, 67%\npod/default/client to svc/default/web:80\n  (10.96.0.1:80), tcp\n")
    assert narrow.endswith(SUMMARY)
    assert max(map(len, narrow.splitlines())) <= 50
    whole = render_explanation(found)
    assert whole.endswith(SUMMARY.replace("\n          ", " "))
    assert render_explanation(found, every_way=True).count("\nthere\n") == 2
    assert len(load_explanation(dump_explanation(found)).ways) == 2
