"""Whatever part of a probe's evidence there is, in whatever order, it reads as a path: no exception, and no untruth."""

from dataclasses import replace
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from netsim.observe.assemble import assemble
from netsim.observe.evidence import Evidence
from netsim.observe.pathjson import parse_path, render_path
from netsim.observe.pathtext import render_text
from tests.unit.observe.recording import FOLDER, Answers, Lenient, load

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
RESULTS = ("connected", "answered", "refused", "unreachable", "timeout", "failed")


@cache
def recorded(name: str) -> tuple[Evidence, Answers, dict[str, str]]:
    return load(name)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(NAMES), st.sampled_from(RESULTS))
def test_part_of_the_evidence_reads_as_a_path(data: st.DataObject, name: str, result: str) -> None:
    evidence, answers, names = recorded(name)
    seen = [one for one in evidence.sightings if data.draw(st.booleans())]
    met = [one for one in evidence.events if data.draw(st.integers(0, 3))]
    if data.draw(st.booleans()):
        met = data.draw(st.permutations(met))
    part = replace(
        evidence,
        sightings=tuple(seen),
        events=tuple(met),
        elements={},
        reply=replace(evidence.reply, result=result),  # type: ignore[arg-type]
    )
    path = assemble(part, Lenient(answers), names)
    assert parse_path(render_path(path)) == path
    assert render_text(path, everything=True)
    assert (path.verdict.outcome == "delivered") == (result in ("connected", "answered"))
    interfaces = {(hop.place, hop.interface) for hop in path.hops if hop.kind == "interface"}
    assert interfaces <= {(one.place, one.interface) for one in seen}, "an interface that nobody saw"


@settings(max_examples=40)
@given(st.data(), st.sampled_from(NAMES))
def test_damaged_frames_read_as_a_path(data: st.DataObject, name: str) -> None:
    evidence, answers, names = recorded(name)
    damaged = []
    for one in evidence.sightings:
        length = data.draw(st.integers(0, len(one.frame)))
        damaged.append(replace(one, frame=one.frame[:length]))
    path = assemble(replace(evidence, sightings=tuple(damaged)), Lenient(answers), names)
    assert parse_path(render_path(path)) == path
