"""What became of a probe, and for one that was lost where and by what. Pure but for the Reader."""

from collections.abc import Sequence
from dataclasses import dataclass

from netsim.model.errors import KernelError
from netsim.observe import blame
from netsim.observe.case import Case
from netsim.observe.path import Hop, Outcome, RuleHit, Verdict, join_end, look_at, look_at_rule

__all__ = ["Case", "Judgement", "judge"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, and what goes with it in a path."""

    verdict: Verdict
    loss: Hop | None = None
    answered_by: str = ""
    seen_source: str = ""


def judge(case: Case) -> Judgement:
    """Never raises for what the evidence lacks: then the verdict says less."""
    try:
        verdict = _choose_verdict(case)
    except KernelError as error:
        verdict = Verdict("no reply", case.end.place, f"what lost it could not be found out: {error.message}")
    lost = verdict.outcome in ("dropped", "no route", "no reply")
    loss = _make_loss(case, verdict) if lost else None
    answered = case.back[0].place if case.back and verdict.outcome in ("delivered", "refused", "rejected") else ""
    if not answered and verdict.outcome == "delivered":
        answered = case.there[-1].place if case.there else case.question.source
    return Judgement(verdict, loss, answered, _find_seen_source(case, answered))


def _choose_verdict(case: Case) -> Verdict:
    match case.evidence.reply.result:
        case "connected" | "answered":
            return Verdict("delivered", case.back[0].place if case.back else case.end.place)
        case "refused":
            return _judge_refusal(case)
        case "unreachable":
            return _judge_unreachable(case)
        case _:
            return _judge_silence(case)


def _judge_refusal(case: Case) -> Verdict:
    place = case.back[0].place if case.back else case.end.place
    rule = case.last_rule("there", "reject", place)
    if rule is not None:
        return _by_rule("rejected", place, rule)
    packet = case.packet_at_end("there")
    server = case.reader.idle_server(place, packet.protocol, packet.destination, packet.destination_port)
    if server:
        return Verdict("rejected", place, f"ipvs: {server} has no destination", look_at(place, "ipvsadm -L -n"))
    port = f"{join_end(packet.destination, packet.destination_port)}/{packet.protocol}"
    return Verdict("refused", place, f"nobody listens on {port}", look_at(place, "ss -lntu"))


def _judge_unreachable(case: Case) -> Verdict:
    """An ICMP error came, or the source's own kernel would not send."""
    first = case.back[0] if case.back else None
    place = first.place if first is not None else case.end.place
    rule = case.last_rule("there", "reject", place)
    if rule is not None:
        return _by_rule("rejected", place, rule)
    found = blame.blame_route(case, place, case.at(place) if case.there else case.sent)
    if found is not None:
        return found
    words = first.packet.note if first is not None else ""
    if words in ("fragmentation needed", "packet too big"):
        return blame.blame_size(case, place)
    if words == "time exceeded":
        return Verdict("dropped", place, "its TTL ran out: a routing loop, or too many routers on the way")
    if words == "administratively prohibited":
        return Verdict("rejected", place, "administratively prohibited: no rule seen, so a route of type prohibit")
    return Verdict("no route", place, words or case.evidence.reply.error.lower() or "no route to host")


def _judge_silence(case: Case) -> Verdict:
    rule = case.dropping_rule()
    if rule is not None:
        place, hit = rule
        return _by_rule("dropped", place, hit)
    if case.evidence.reply.result == "failed":
        return _judge_failure(case)
    return blame.blame_silence(case)


def _judge_failure(case: Case) -> Verdict:
    """The source's kernel refused to send: EPERM is netfilter's, EMSGSIZE the MTU's, EINVAL and EACCES a route's."""
    if case.back:  # an ICMP error that the socket has another word for: of IPv6, "prohibited" is EACCES
        return _judge_unreachable(case)
    reply, source = case.evidence.reply, case.question.source
    if reply.error.lower().startswith("message too long"):
        return blame.blame_size(case, source)
    found = blame.blame_route(case, source, case.sent)
    if found is not None:
        return found
    return Verdict("dropped", source, f"the kernel would not send: {reply.error}")


def _by_rule(outcome: Outcome, place: str, rule: RuleHit) -> Verdict:
    where = f"{rule.family} {rule.table} {rule.chain}".rstrip()
    return Verdict(outcome, place, f"{where}: {rule.text}", look_at_rule(place, rule))


def _make_loss(case: Case, verdict: Verdict) -> Hop:
    """The hop that ends the leg on which it was lost, where the verdict says."""
    last = case.end
    if case.evidence.reply.result in ("unreachable", "failed", "refused") and case.there:
        last = case.there[-1]  # what came back is about it
    place = verdict.place or last.place
    packet = case.at(place) if last.leg == "there" else last.packet
    return Hop(place, last.leg, "loss", packet, reason=verdict.cause or "nothing came back")


def _find_seen_source(case: Case, answered: str) -> str:
    """The client as whoever answered saw it."""
    seen: Sequence[Hop] = [hop for hop in case.there if hop.place == answered]
    if not seen:
        return ""
    packet = seen[-1].packet
    if packet.protocol in ("icmp", "icmpv6"):
        return packet.source
    return join_end(packet.source, packet.source_port)
