"""What a verdict is made from: the evidence, the hops of both legs, and what can be asked about them."""

from dataclasses import dataclass

from netsim.observe.evidence import Drop, Evidence, Reader
from netsim.observe.journey import Journey
from netsim.observe.path import Hop, Leg, Packet, Question, RuleHit
from netsim.observe.reasons import UNTELLING, name_reason

_SLACK_NS = 1_000  # a drop may carry the very time of the sighting before it


@dataclass(frozen=True, slots=True)
class Case:
    """One probe."""

    evidence: Evidence
    reader: Reader
    journey: Journey
    there: tuple[Hop, ...]
    back: tuple[Hop, ...]

    @property
    def question(self) -> Question:
        return self.evidence.question

    @property
    def end(self) -> Hop:
        """The last that was seen of it, or, where nothing was, a hop at its source."""
        hops = self.back or self.there
        if hops:
            return hops[-1]
        return Hop(self.question.source, "there", "interface", self.sent)

    @property
    def sent(self) -> Packet:
        """The packet as it was to be sent."""
        question = self.question
        port = self.evidence.source_port
        return Packet("", question.address, question.protocol, port, question.port or port)

    def at(self, place: str) -> Packet:
        """The packet as it was last seen in a place on its way there, else where it ended."""
        hops = [hop for hop in self.there if hop.place == place]
        return hops[-1].packet if hops else self.end.packet

    def packet_at_end(self, leg: Leg) -> Packet:
        hops = self.there if leg == "there" else self.back
        return hops[-1].packet if hops else self.sent

    def last_rule(self, leg: Leg, verdict: str, place: str) -> RuleHit | None:
        """The last rule with this verdict that the packet met there."""
        hits = [
            hit
            for hop in (self.there if leg == "there" else self.back)
            if hop.place == place
            for hit in hop.rules
            if hit.verdict == verdict
        ]
        return hits[-1] if hits else None

    def dropping_rule(self) -> tuple[str, RuleHit] | None:
        """The rule that ended the way: the last one met, if it drops."""
        for hop in reversed([*self.there, *self.back]):
            if hop.kind == "interface" and hop.direction == "out":
                return None  # it got out of the place, so no rule before that dropped it
            if hop.rules:
                last = hop.rules[-1]
                return (hop.place, last) if last.verdict in ("drop", "reject") else None
        return None

    @property
    def passed(self) -> tuple[Hop, ...]:
        """The interfaces it was seen at, in order."""
        return tuple(hop for hop in (*self.there, *self.back) if hop.kind == "interface")

    def drop_after_end(self) -> Drop | None:
        """The kernel's first telling drop after the packet was last seen."""
        last = max((hop.time_ns for hop in self.passed if hop.time_ns is not None), default=0)
        drops = [drop for drop in self.evidence.drops if name_reason(drop.reason) not in UNTELLING]
        late = [drop for drop in drops if drop.time_ns + _SLACK_NS >= last]
        return late[0] if late else None
