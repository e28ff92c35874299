"""One probe, watched everywhere: sets up, sends, reads, takes down. What it brings back nobody has judged yet."""

import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_address

from netsim.kernel.conntrack import Conntrack, FlowTuple
from netsim.kernel.drops import DropWatch
from netsim.kernel.ipvs_connections import read_connections
from netsim.kernel.netns import Netns
from netsim.kernel.nft_trace import TABLE_PREFIX, plan_table
from netsim.kernel.packet_match import compile_filter
from netsim.kernel.process import Spawner
from netsim.kernel.rtnl_wire import parse_ip
from netsim.model.errors import FeatureMissing, NetsimError, UsageError
from netsim.observe.decode import decode_frame
from netsim.observe.elements import read_elements
from netsim.observe.events import correct_legacy, read_events
from netsim.observe.evidence import Drop, Evidence, Reply, RuleEvent, Sighting
from netsim.observe.loss import Loss
from netsim.observe.own import Own
from netsim.observe.path import Question
from netsim.observe.posts import Plan, Post, Posts
from netsim.observe.probe import Probe
from netsim.observe.rulebook import read_texts
from netsim.observe.signature import Answers, Signature, make_signature

DEFAULT_TIMEOUT_S = 0.7  # before a SYN would be sent again
_SNAPLEN_BYTES = 256
_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
_ECHO = {"icmp": 8, "icmpv6": 128}


def collect(
    question: Question,
    places: Mapping[str, Netns],
    source_place: str,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    spawner: Spawner | None = None,
    heed: Callable[[], None] = lambda: None,
) -> Evidence:
    """Send one probe from ``source_place`` and bring back what every one of ``places`` saw of it.

    ``places`` are all that its way may lead through; ``spawner`` runs iptables, for the texts of its rules. Blocking,
    for a worker thread; several at once do not mix. ``timeout_s``: how long an answer is waited for, unless a rule is
    seen to drop the probe. ``heed`` is called every few milliseconds while nothing comes; what
    it raises ends it. Nothing stays behind, however it ends. What can't be looked at is in the notes. Raises
    KernelError if the probe can't be sent at all, UsageError for a source that is not among the places or an address
    that is none.
    """
    start = time.monotonic()  # long for a function, but what matters here is the order, from set-up to take-down
    if source_place not in places:
        raise UsageError(f"{source_place} is not among the places to look at")
    signature = _make_signature(question)
    with ExitStack() as stack:
        probe = stack.enter_context(Probe(places[source_place], question, signature))
        table = f"{TABLE_PREFIX}{signature.sequence:08x}"
        watch = stack.enter_context(
            Posts(
                places,
                table,
                _plan(table, signature, probe.source_port, vxlan=True),
                _plan(table, signature, probe.source_port, vxlan=False),
            )
        )
        posts = watch.all
        notes: list[str] = []
        asked = (_name_protocol(question), question.address, question.port or probe.source_port)
        loss = Loss(lambda: Own(signature, _sightings(posts, signature), asked, probe.source_port), posts)
        reply, drops = _send(probe, timeout_s, watch, notes, heed, loss)
        watch.wait_for_silence()
        watch.stop()
        sightings = _sightings(posts, signature)
        conntrack = _read_conntrack(watch, sightings, notes)
        probe.close()
        own = Own(signature, sightings, asked, probe.source_port)
        events, elements = _read_events(posts, own, sightings, notes)
        rules, missing = read_texts(posts, events, spawner)
        return Evidence(
            question=question,
            source_port=probe.source_port,
            reply=reply,
            sightings=sightings,
            events=correct_legacy(events, rules),
            drops=drops,
            rules=rules,
            conntrack=conntrack,
            notes=(*notes, *missing, *(note for post in posts for note in post.notes)),
            elapsed_ms=(time.monotonic() - start) * 1000,
            elements=elements,
            ipvs=_read_ipvs(posts, sightings),
        )


def _plan(table: str, signature: Signature, source_port: int, *, vxlan: bool) -> Plan:
    """What is set up in a node, and in a pod, whose packets are never inside VXLAN."""
    patterns = signature.patterns if vxlan else signature.own_patterns
    certain = signature.capture_patterns(source_port, vxlan=vxlan)
    maybe = signature.maybe_patterns(vxlan=vxlan)
    return Plan(
        plan_table(table, patterns, signature.taught_by(vxlan=vxlan)),
        compile_filter(certain, snaplen=_SNAPLEN_BYTES),
        compile_filter(maybe, snaplen=_SNAPLEN_BYTES, but=certain) if maybe else None,
    )


def _make_signature(question: Question) -> Signature:
    try:
        family = ip_address(question.address).version
    except ValueError:
        raise UsageError(f'"{question.address}" is no address') from None
    number = int.from_bytes(os.urandom(4), "big")
    return make_signature(question.protocol, family, question.port, number, question.size)


def _name_protocol(question: Question) -> str:
    """As packets' headers are read."""
    return "icmpv6" if question.protocol == "icmp" and ":" in question.address else question.protocol


def _send(
    probe: Probe, timeout_s: float, watch: Posts, notes: list[str], heed: Callable[[], None], loss: Loss
) -> tuple[Reply, tuple[Drop, ...]]:
    """The exchange, with the drops in this thread's context."""

    def is_lost() -> bool:
        heed()
        watch.read()
        return loss.is_certain()

    try:
        drops = watch.close_later(DropWatch())
    except FeatureMissing as error:
        notes.append(f"drop reasons: {error.message}")
        watch.forget()
        return probe.send(timeout_s, is_lost), ()
    # Of UDP the taps keep more than the probe, which would fill them while nobody reads.
    watch.forget()
    reply = probe.send(timeout_s, is_lost)
    return reply, tuple(Drop(event.time_ns, event.reason, event.function) for event in drops.read())


def _sightings(posts: Sequence[Post], signature: Signature) -> tuple[Sighting, ...]:
    """The frames of all places by time; those of one place that have the same time stay in the kernel's order."""
    seen = [(frame.time_ns, post, frame) for post in posts for frame in post.frames]
    seen.sort(key=lambda one: one[0])
    answers = Answers(signature)
    return tuple(
        Sighting(
            post.place,
            post.interface(frame.ifindex),
            "out" if frame.outgoing else "in",
            time_ns,
            frame.data,
            frame.length,
        )
        for time_ns, post, frame in seen
        if answers.accept(frame.data)
    )


def _read_events(
    posts: Sequence[Post], own: Own, sightings: Sequence[Sighting], notes: list[str]
) -> tuple[tuple[RuleEvent, ...], Mapping[int, str]]:
    """All events, and by their position the elements that decided."""
    events: list[RuleEvent] = []
    elements: dict[int, str] = {}
    for post in posts:
        try:
            mine = read_events(post, own)
            first = len(events)
            events += mine
            flows = dict.fromkeys(flow for one in sightings if one.place == post.place for flow in _flow_of(one.frame))
            went_to = {(parse_ip(to.destination)[1], struct.pack("!H", to.destination_port)) for _, to in flows}
            elements.update({first + at: text for at, text in read_elements(post, mine, went_to).items()})
        except NetsimError as error:
            notes.append(f"rules of {post.place}: {error.message}")
    return tuple(events), elements


def _read_conntrack(watch: Posts, sightings: Sequence[Sighting], notes: list[str]) -> Mapping[str, tuple[str, ...]]:
    """The entries of the flows that were seen in each place, while the probe's socket is still open."""
    entries: dict[str, tuple[str, ...]] = {}
    for post in watch.all:
        flows = dict.fromkeys(flow for one in sightings if one.place == post.place for flow in _flow_of(one.frame))
        if not flows:
            continue
        try:
            conntrack = watch.close_later(Conntrack(post.ns))
            found = {flow.id: flow for one in flows if (flow := conntrack.find(*one)) is not None}
        except NetsimError as error:
            notes.append(f"conntrack of {post.place}: {error.message}")
            continue
        if found:
            entries[post.place] = tuple(str(flow) for flow in found.values())
    return entries


def _read_ipvs(posts: Sequence[Post], sightings: Sequence[Sighting]) -> Mapping[str, tuple[str, ...]]:
    """The connections of IPVS whose client and virtual address the probe's frames have, anywhere."""
    flows = {
        (flow.source, flow.source_port, flow.destination, flow.destination_port)
        for one in sightings
        for _, flow in _flow_of(one.frame)
    }
    entries = {}
    for post in posts:
        found = tuple(str(one) for one in read_connections(post.ns) if (*one.client, *one.virtual) in flows)
        if found:
            entries[post.place] = found
    return entries


def _flow_of(frame: bytes) -> Sequence[tuple[int, FlowTuple]]:
    """The flow a frame belongs to: of VXLAN the one inside, of an ICMP error none."""
    decoded = decode_frame(frame)
    if decoded is None or decoded.is_error or decoded.packet.protocol not in _PROTOCOLS:
        return ()
    packet = decoded.packet
    number = _PROTOCOLS[packet.protocol]
    if packet.protocol in _ECHO:
        kind = _ECHO[packet.protocol]
        return ((number, FlowTuple(packet.source, packet.destination, icmp_type=kind, icmp_id=packet.source_port)),)
    return ((number, FlowTuple(packet.source, packet.destination, packet.source_port, packet.destination_port)),)
