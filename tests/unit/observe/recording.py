"""Evidence of real probes in files, with the kernel's answers to what the reading of it asked.

`python -m tests.unit.observe.recording CLUSTER FROM TO[:PORT] NAME` records one in a running cluster, as root.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from netsim.model.errors import KernelError
from netsim.observe.assemble import assemble
from netsim.observe.evidence import Drop, Evidence, Reader, Reply, RuleEvent, Sighting
from netsim.observe.path import Path as Way
from netsim.observe.path import Question
from netsim.observe.pathtext import render_text

FOLDER = Path(__file__).parent / "recorded"
Answers = dict[str, Any]


class Replay:
    """A Reader that gives the recorded answers."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        def ask(*words: Any, **named: Any) -> Any:
            answer = self._answers[_key(name, words, named)]
            if isinstance(answer, dict) and "errno" in answer:
                raise KernelError(answer["message"], errno=answer["errno"])
            return answer

        return ask


class Lenient(Replay):
    """Knows no answer to what was not asked when it was recorded."""

    def __getattr__(self, name: str) -> Any:
        ask = super().__getattr__(name)

        def answer(*words: Any, **named: Any) -> Any:
            try:
                return ask(*words, **named)
            except KeyError:
                return {} if name in ("addresses", "forwarding") else ""

        return answer


class Recorder:
    """A Reader that asks another one and keeps the answers."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.answers: Answers = {}

    def __getattr__(self, name: str) -> Any:
        def ask(*words: Any, **named: Any) -> Any:
            key = _key(name, words, named)
            try:
                answer = self.answers[key] = getattr(self._reader, name)(*words, **named)
            except KernelError as error:
                self.answers[key] = {"errno": error.errno, "message": error.message}
                raise
            return answer

        return ask


def _key(name: str, words: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    return json.dumps([name, *words, dict(sorted(named.items()))])


def load(name: str) -> tuple[Evidence, Answers, dict[str, str]]:
    """What `save` wrote."""
    document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    raw = document["evidence"]
    sightings = tuple(Sighting(**{**one, "frame": bytes.fromhex(one["frame"])}) for one in raw["sightings"])
    events = tuple(RuleEvent(**{**one, "packet": bytes.fromhex(one["packet"])}) for one in raw["events"])
    rules: dict[Any, str] = {tuple(key): text for key, text in raw["rules"]}
    evidence = Evidence(
        question=Question(**raw["question"]),
        source_port=raw["source_port"],
        reply=Reply(**{**raw["reply"], "data": bytes.fromhex(raw["reply"]["data"])}),
        sightings=sightings,
        events=events,
        drops=tuple(Drop(**one) for one in raw["drops"]),
        rules=rules,
        conntrack={place: tuple(texts) for place, texts in raw["conntrack"].items()},
        notes=tuple(raw["notes"]),
        elements={int(position): text for position, text in raw["elements"].items()},
        elapsed_ms=raw["elapsed_ms"],
    )
    return evidence, document["answers"], document["names"]


def save(name: str, evidence: Evidence, answers: Answers, names: Mapping[str, str]) -> None:
    raw = {f.name: getattr(evidence, f.name) for f in dataclasses.fields(evidence)}
    raw |= {
        "question": dataclasses.asdict(evidence.question),
        "reply": dataclasses.asdict(evidence.reply) | {"data": evidence.reply.data.hex()},
        "sightings": [dataclasses.asdict(one) | {"frame": one.frame.hex()} for one in evidence.sightings],
        "events": [dataclasses.asdict(one) | {"packet": one.packet.hex()} for one in evidence.events],
        "drops": [dataclasses.asdict(one) for one in evidence.drops],
        "rules": [[list(key), text] for key, text in evidence.rules.items()],
        "elapsed_ms": round(evidence.elapsed_ms, 1),
    }
    document = {"evidence": raw, "answers": answers, "names": dict(names)}
    (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def replay(name: str) -> Way:
    evidence, answers, names = load(name)
    return assemble(evidence, Replay(answers), names)


def record(cluster_name: str, source: str, target: str, name: str) -> None:
    """Needs what `netsim.cluster.tracing` has in the cluster process: here the namespaces are opened by sockets."""
    from netsim.cluster.handle import attach
    from netsim.model.target import parse_target, resolve_place, resolve_service
    from netsim.observe.collect import collect
    from netsim.observe.names import name_addresses
    from netsim.observe.reader import KernelReader
    from tests.packets.fabric import open_fabric
    from tests.packets.probes import open_netns

    with closing(attach(cluster_name)) as cluster:
        wanted = parse_target(target)
        if wanted.service:
            goal = resolve_service(wanted, cluster.get("Service", wanted.service, wanted.namespace))
        else:
            addresses = [
                i.addresses[0].split("/")[0] for i in cluster.interfaces(str(wanted.place)) if i.name == "eth0"
            ]
            goal = resolve_place(wanted, addresses)
        pods = [f"pod/{p['metadata']['namespace']}/{p['metadata']['name']}" for p in cluster.list("pods")]
        nodes = [f"node/{n['metadata']['name']}" for n in cluster.list("nodes")]
        places = {where: open_netns(cluster, where) for where in (*pods, *nodes, "host/external")}
        places["fabric"] = open_fabric(cluster)
        question = Question(source, str(wanted), goal.protocol, goal.address, goal.port)
        evidence = collect(question, places, source)
        names = name_addresses(cluster.list("pods"), cluster.list("nodes"), cluster.list("services"), {})
        recorder = Recorder(KernelReader(places))
        path = assemble(evidence, recorder, names)
        save(name, evidence, recorder.answers, names)
        (FOLDER / f"{name}.txt").write_text(render_text(path, everything=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(*sys.argv[1:])
