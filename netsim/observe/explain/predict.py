"""The answer to a question: every way that a packet may take there, the answer's way back, and the verdict. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from netsim.observe.explain.context import Chances, every_way
from netsim.observe.explain.filters import Filters
from netsim.observe.explain.hooks import Stay
from netsim.observe.explain.journey import Arrival, Journey, Lost
from netsim.observe.explain.packet import CLIENT_PORT, Travel, shown_port
from netsim.observe.explain.sockets import answer
from netsim.observe.explain.state import World
from netsim.observe.path import Hop, Outcome, Path, Question, Verdict, look_at

MOST_WAYS = 64  # a Service of a thousand endpoints has a thousand ways that differ in an address only
_WHOLE = 0.999  # probabilities that sum up to less: ways are left out
_FIRST_NOTE = {"tcp": "SYN", "udp": "", "icmp": "echo request"}
_BYTES = {("tcp", 4): 60, ("tcp", 6): 80, ("udp", 4): 48, ("udp", 6): 68, ("icmp", 4): 84, ("icmp", 6): 104}


@dataclass(frozen=True, slots=True)
class Way:
    """One way, and how likely the packet takes it (0 to 1)."""

    probability: float
    path: Path


@dataclass(frozen=True, slots=True)
class Explanation:
    """All ways, the likeliest first. ``complete`` False: there are more than are told."""

    question: Question
    ways: tuple[Way, ...]
    complete: bool = True
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The likeliest way."""
        return self.ways[0].path


class Explainer:
    """Answers questions about one world, whose state does not change meanwhile."""

    def __init__(self, world: World, names: Mapping[str, str]) -> None:
        """``names``: address, or "address:port" of a Service, to the name of its owner."""
        self._world = world
        self._names = names
        self._filters: dict[tuple[str, int], Filters] = {}

    def explain(self, question: Question, *, most: int = MOST_WAYS) -> Explanation:
        """What would become of a packet. Raises KernelError where a place's state can't be read."""
        found: list[Way] = []
        notes: dict[str, None] = {}
        total = 0.0
        for chances, path in every_way(lambda chances: self._predict(question, chances), most):
            same = next((at for at, way in enumerate(found) if _is_same(way.path, path)), None)
            if same is None:
                found.append(Way(chances.probability, path))
            else:
                found[same] = replace(found[same], probability=found[same].probability + chances.probability)
            total += chances.probability
            notes |= dict.fromkeys(chances.notes)
        ways = sorted(found, key=lambda way: -round(way.probability, 6))
        complete = total > _WHOLE
        if not complete:
            notes[f"only {most} of the ways were followed"] = None
        return Explanation(question, tuple(ways), complete, tuple(notes))

    def _predict(self, question: Question, chances: Chances) -> Path:
        return _predict(self._world, question, Journey(self._world, chances, self._filters), self._names)


def _is_same(one: Path, other: Path) -> bool:
    return one.hops == other.hops and one.verdict == other.verdict


def _predict(world: World, question: Question, journey: Journey, names: Mapping[str, str]) -> Path:
    packet = _first_packet(question)
    arrival: Arrival | None = None
    answered_by = ""
    try:
        arrival = journey.send(world.place(question.source), packet)
        reply, is_answer = answer(journey, arrival)
    except Lost as lost:
        verdict = Verdict(lost.outcome, lost.place, lost.cause, lost.hint)
        if lost.reply is not None:
            journey.leg = "back"
            verdict = _bring_back_error(world, journey, question, lost, verdict)
    else:
        journey.leg = "back"
        verdict = _bring_back(world, journey, question, arrival, reply, is_answer)
        if verdict.outcome in ("delivered", "refused"):
            answered_by = arrival.place.name
    return Path(
        question,
        tuple(journey.hops),
        verdict,
        answered_by=answered_by,
        seen_source=_seen(arrival.packet) if arrival is not None else "",
        names=_names_on(journey, names),
        notes=tuple(journey.chances.notes),
    )


def _first_packet(question: Question) -> Travel:
    v6 = ":" in question.address
    protocol = "icmpv6" if question.protocol == "icmp" and v6 else question.protocol
    ping = question.protocol == "icmp"
    return Travel(
        source="",
        destination=question.address,
        protocol=protocol,
        source_port=CLIENT_PORT,
        destination_port=CLIENT_PORT if ping else question.port,
        note=_FIRST_NOTE[question.protocol],
        length=max(_BYTES[question.protocol, 6 if v6 else 4], question.size + (48 if v6 else 28)),
    )


def _bring_back(
    world: World, journey: Journey, question: Question, arrival: Arrival, reply: Travel, is_answer: bool
) -> Verdict:
    """What the client hears of an answer, or of its target's refusal."""
    outcome = "delivered" if is_answer else "refused"
    cause = "" if is_answer else f"nobody listens on {arrival.packet.protocol} port {arrival.packet.destination_port}"
    hint = "" if is_answer else look_at(arrival.place.name, "ss -lntu")
    try:
        back = journey.send(arrival.place, reply, Stay())
    except Lost as lost:
        words = f"{'the answer' if is_answer else 'the refusal'} is lost: {lost.cause}"
        return Verdict(lost.outcome, lost.place, words, lost.hint)
    strange = _why_strange(question, back)
    if strange:
        journey.hops.append(_end_hop(journey, back, strange))
        return Verdict("dropped", back.place.name, f"the answer is none to it: {strange}")
    return Verdict("delivered" if outcome == "delivered" else "refused", arrival.place.name, cause, hint)


def _end_hop(journey: Journey, back: Arrival, reason: str) -> Hop:
    return Hop(back.place.name, journey.leg, "loss", back.packet.shown(), reason=reason)


def _bring_back_error(world: World, journey: Journey, question: Question, lost: Lost, verdict: Verdict) -> Verdict:
    """An error that a rule or a router sends; the verdict stays, and says where the client does not hear of it: then
    what a rule refuses is dropped, to the client.
    """
    if lost.reply is None:
        return verdict
    try:
        back = journey.send_reply(lost, lost.reply)
        unheard = _why_strange(question, back)
    except Lost as again:
        unheard = again.cause
    if not unheard:
        return verdict
    outcome: Outcome = "dropped" if verdict.outcome == "rejected" else verdict.outcome
    return replace(verdict, outcome=outcome, cause=f"{verdict.cause}; the client does not hear of it: {unheard}")


def _why_strange(question: Question, back: Arrival) -> str:
    """Why an answer is none to whoever asked; "" if it is."""
    packet = back.packet
    if back.place.name != question.source:
        return f"it ends at {back.place.name}, which never asked"
    one = packet.inner.inverted() if packet.inner is not None else packet.key()
    if question.protocol == "icmp":
        return "" if one.source == question.address else f"it comes from {one.source}, and {question.address} was asked"
    if (one.source, one.source_port) != (question.address, question.port):
        return (
            f"it comes from {one.source} port {one.source_port}, and {question.address} port {question.port} was asked"
        )
    if one.destination_port != CLIENT_PORT:
        return "it is to a port that nobody there has"
    return ""


def _seen(packet: Travel) -> str:
    port = shown_port(packet.source_port)
    if not port:
        return packet.source
    return f"[{packet.source}]:{port}" if ":" in packet.source else f"{packet.source}:{port}"


def _names_on(journey: Journey, names: Mapping[str, str]) -> dict[str, str]:
    """Of all names those that a hop needs."""
    found: dict[str, str] = {}
    for hop in journey.hops:
        for packet in (hop.packet, hop.packet.outer):
            if packet is None:
                continue
            for address, port in (
                (packet.source, packet.source_port),
                (packet.destination, packet.destination_port),
            ):
                joined = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                for key in (address, joined):
                    if key in names:
                        found[key] = names[key]
    return found
