"""A path as text for people: a tree of places, each with what happened there, in order. Pure.

Colours are ANSI sequences, put in only when they are asked for. Lines are whole, as scripts want them, unless there is
a width to fold them at.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from netsim.observe.folding import HANGING, fold
from netsim.observe.path import Hop, Packet, Path, RuleHit, join_end
from netsim.observe.spread import Spread

_STYLES = {"good": "32;1", "bad": "31;1", "place": "36;1", "rewrite": "33", "faint": "2", "bold": "1"}
_OUTCOME_STYLES = {"delivered": "good"}
_LABEL = 15
_LEAD = " " * HANGING  # of what is left of a line outside of the tree
# By a rule that rejects nobody is seen, and it may have been on the way.
_SEEN_BY = {"delivered": ", which saw the client as", "refused": "; the client was seen there as"}
_REWRITES = {
    "dnat": "destination",
    "snat": "source",
    "un-dnat": "source",
    "un-snat": "destination",
}


class Painter:
    """Puts colour on words, or leaves them as they are."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colour and text else text


def render_text(path: Path, *, colour: bool = False, everything: bool = False, width: int | None = None) -> str:
    """Several lines, without a newline at the end.

    everything: also rules that led nowhere, and policies. width: columns to fold at, None not to; what is to be done
    next is left whole, to be copied.
    """
    paint = Painter(colour)
    lines = fold(_head(path, paint), width, _LEAD)
    for leg in ("there", "back"):
        hops = [hop for hop in path.hops if hop.leg == leg]
        if hops:
            lines += ["", paint("bold", leg)]
            steps = _group_steps(hops, path.names, paint, everything)
            lines += [line for place, of in steps for line in _tree_lines(paint("place", place), of, width)]
    lines += ["", *fold(_verdict(path, paint), width, _LEAD)]
    if path.verdict.next:
        lines.append(f"{paint('bold', 'next:')} {path.verdict.next}")
    for note in path.notes:
        lines += fold(paint("faint", f"note: {note}"), width, _LEAD)
    return "\n".join(lines)


def render_spread_text(
    spread: Spread, *, colour: bool = False, everything: bool = False, width: int | None = None
) -> str:
    """Several probes: each way once, with how often it was taken, and how they went together."""
    paint = Painter(colour)
    parts = []
    for number, group in enumerate(spread.groups, 1):
        head = f"way {number}: {group.count} of {spread.count} probes"
        text = render_text(group.path, colour=colour, everything=everything, width=width)
        parts.append(f"{paint('bold', head)}\n{text}\n")
    parts.append(f"{spread.count} probes: " + ", ".join(f"{n} {outcome}" for outcome, n in spread.outcomes.items()))
    longest = max((len(place) for place in spread.answered_by), default=0)
    for place, number in spread.answered_by.items():
        parts.append(f"  {place:<{longest}}  {number:>4}  {100 * number / spread.count:.0f} %")
    return "\n".join(parts)


def _head(path: Path, paint: Painter) -> str:
    question = path.question
    target = join_end(question.address, question.port)
    named = f" ({target})" if question.target != target else ""
    return f"{paint('bold', question.source)} to {paint('bold', question.target)}{named}, {question.protocol}"


def _verdict(path: Path, paint: Painter) -> str:
    verdict = path.verdict
    took = f" ({path.elapsed_ms:.0f} ms)" if path.elapsed_ms is not None else ""
    text = paint(_OUTCOME_STYLES.get(verdict.outcome, "bad"), verdict.outcome)
    place = path.answered_by if verdict.outcome == "delivered" else verdict.place
    if place:
        text += f" {'by' if verdict.outcome in ('delivered', 'refused', 'rejected') else 'at'} {place}"
    if verdict.cause:
        text += f": {verdict.cause}"
    if path.seen_source and verdict.outcome in _SEEN_BY:
        name = path.names.get(path.seen_source.rpartition(":")[0].strip("[]")) or path.names.get(path.seen_source, "")
        text += f"{_SEEN_BY[verdict.outcome]} {path.seen_source}" + (f" ({name})" if name else "")
    return text + took


def _group_steps(
    hops: Sequence[Hop], names: Mapping[str, str], paint: Painter, everything: bool
) -> Iterator[tuple[str, list[list[str]]]]:
    """Each place in turn, with what happened there: of each step its lines."""
    shown: Packet | None = None
    for place, group in groupby(hops, key=lambda hop: hop.place):
        steps: list[list[str]] = []
        for hop in group:
            lines = list(_step(hop, shown, names, paint, everything))
            if lines:
                steps.append(lines)
            if hop.kind == "interface":
                shown = hop.packet
            elif hop.kind == "rewrite" and shown is not None:  # told as such; the TTL is told at the next interface
                shown = replace(hop.packet, ttl=shown.ttl)
        yield place, steps


def _tree_lines(place: str, steps: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """The place, and its steps on a bar that goes on beside all their lines and ends at the last step."""
    yield f"  {place}"
    for number, lines in enumerate(steps):
        fork, bar = ("├─", "│ ") if number < len(steps) - 1 else ("└─", "  ")
        lead = f"  {bar} {'':<{_LABEL + HANGING}}"
        yield from fold(f"  {fork} {lines[0]}", width, lead)
        for line in lines[1:]:
            yield from fold(f"  {bar} {line}", width, lead)


def _step(hop: Hop, before: Packet | None, names: Mapping[str, str], paint: Painter, everything: bool) -> Iterator[str]:
    pad = " " * _LABEL
    match hop.kind:
        case "interface":
            label = f"{hop.direction:<3} {hop.interface}"
            yield f"{label:<{_LABEL - 1}} {_difference(hop.packet, before, names)}".rstrip()
        case "hook":
            rules = hop.rules if everything else choose_telling(hop.rules)
            for number, rule in enumerate(rules):
                yield f"{hop.hook if number == 0 else '':<{_LABEL}}{_rule(rule, paint)}"
        case "rewrite":
            yield paint("rewrite", hop.rewrite.ljust(_LABEL)) + _rewrite(hop, names, paint)
        case "route":
            yield f"{'route':<{_LABEL}}{hop.route}"
        case "conntrack":
            yield f"{'conntrack':<{_LABEL}}{paint('faint', ' '.join(hop.conntrack.split()))}"
        case "loss":
            first, *rest = hop.reason.splitlines() or [""]
            yield paint("bad", "lost".ljust(_LABEL)) + first
            yield from (f"{pad}{line}" for line in rest)


def choose_telling(rules: Sequence[RuleHit]) -> list[RuleHit]:
    """Without chains' accepting policies, and jumps into chains where no rule matched."""
    kept: list[RuleHit] = []
    for number in reversed(range(len(rules))):
        rule = rules[number]
        verb, _, chain = rule.verdict.partition(" ")
        after = kept[-1] if kept else None
        nowhere = verb in ("jump", "goto") and (after is None or (after.table, after.chain) != (rule.table, chain))
        if rule.text != "policy accept" and not nowhere:
            kept.append(rule)
    return kept[::-1]


def _rule(rule: RuleHit, paint: Painter) -> str:
    where = (
        f"{rule.family} {rule.table} {rule.chain}" if rule.table else rule.backend
    )  # a virtual server is in no table
    bad = rule.verdict in ("drop", "reject")
    inner = Painter(False) if bad else paint  # the end of a colour ends the one around it, too
    table = inner("faint", f"{where}:")
    text = f"{table} {rule.text.removeprefix(f'-A {rule.chain} ')}"
    if rule.element:
        text += f"  {inner('faint', '{')} {rule.element} {inner('faint', '}')}"
    return paint("bad", text) if bad else text


def _rewrite(hop: Hop, names: Mapping[str, str], paint: Painter) -> str:
    packet, before = hop.packet, hop.before
    if hop.rewrite == "encapsulate" and packet.outer is not None:
        return f"VXLAN {packet.vni}: {ends(packet.outer, names)}"
    if before is None or hop.rewrite == "decapsulate":
        return ends(packet, names)
    if _REWRITES.get(hop.rewrite) == "destination":
        old, new = (before.destination, before.destination_port), (packet.destination, packet.destination_port)
    else:
        old, new = (before.source, before.source_port), (packet.source, packet.source_port)
    kind = _REWRITES.get(hop.rewrite, "")
    return f"{kind} {end(*old, names)} is now {paint('rewrite', end(*new, names))}"


def _difference(packet: Packet, before: Packet | None, names: Mapping[str, str]) -> str:
    """What is new about a packet since it was last shown."""
    if before is None:
        return describe(packet, names)
    parts = []
    same = (packet.source, packet.source_port, packet.destination, packet.destination_port, packet.note)
    if same != (before.source, before.source_port, before.destination, before.destination_port, before.note):
        return describe(packet, names)
    if packet.ttl != before.ttl and packet.ttl is not None:
        parts.append(f"ttl {packet.ttl}")
    return ", ".join(parts)


def describe(packet: Packet, names: Mapping[str, str]) -> str:
    """``a:1 (name) > b:2 (name) tcp SYN, ttl 64``."""
    text = f"{ends(packet, names)} {packet.protocol}"
    if packet.note:
        text += f" {packet.note}"
    if packet.ttl is not None:
        text += f", ttl {packet.ttl}"
    if packet.outer is not None:
        text += f", in VXLAN {packet.vni} {packet.outer.source} > {packet.outer.destination}"
    return text


def ends(packet: Packet, names: Mapping[str, str]) -> str:
    """Both ends with their names."""
    ports = packet.protocol in ("tcp", "udp", "sctp")
    source = end(packet.source, packet.source_port if ports else 0, names)
    return f"{source} > {end(packet.destination, packet.destination_port if ports else 0, names)}"


def end(address: str, port: int, names: Mapping[str, str]) -> str:
    """``10.96.1.1:80 (svc/default/web:http)``."""
    text = join_end(address, port)
    name = names.get(text) or names.get(address, "")
    return f"{text} ({name})" if name else text
