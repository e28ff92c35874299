"""What faults mean in the kernel: all active faults in, the state they ask for out, and the steps from one to another.

Faults that overlap are not laid over each other one by one: what a link should be is computed from all of them, and the
difference is applied. So any of them can be undone in any order, and what is left is exactly what the others ask for.

Where each acts (a cable has two ends: ``outer`` is the port in the fabric, or in a pod's node; ``inner`` is the place's
own eth0; what a link *sends* can be shaped, what arrives can only be dropped):

    link-down, stop   outer goes down: its other end loses its carrier, and keeps its addresses, routes and neighbours
    rate, netem       in: the root qdisc of outer; out: the root qdisc of inner
    loss by nft       in: egress of outer; out: ingress of outer. One table for each fault
    mtu               inner; outer cuts large segments before it sends them, as a real port would have got them
    partition         the fabric's bridge, between the ports of the sets
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from netsim.faults.fault import Cable, End, Fault
from netsim.model.names import EXTERNAL, FAULT_TABLE

_PARTS = 1_000_000  # a chance is so many of a million
_ETHERNET_BYTES = 14


@dataclass(frozen=True, slots=True)
class Shape:
    """What the root qdisc of a link does; chances in percent."""

    rate_bits: int = 0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    mtu: int = 1500

    @property
    def netem(self) -> bool:
        """More than a rate, which tbf can do."""
        return any((self.delay_s, self.loss, self.duplicate, self.corrupt, self.reorder))

    @property
    def burst_bytes(self) -> int:
        """What may leave at once: 10 ms of the rate, and never less than two packets."""
        return max(self.rate_bits // 8 // 100, 2 * (self.mtu + _ETHERNET_BYTES))


@dataclass(frozen=True, slots=True)
class LinkState:
    """What faults ask of one link; what they do not speak of is None."""

    shape: Shape | None = None
    down: bool = False
    mtu: tuple[int, int] | None = None  # and what it is without the fault
    gso_max_segs: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, order=True)
class Table:
    """An nft table of one fault in one namespace."""

    netns: str
    family: str
    name: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that faults ask for."""

    links: Mapping[End, LinkState] = field(default_factory=dict)
    tables: Mapping[Table, str] = field(default_factory=dict)  # their content


@dataclass(frozen=True, slots=True)
class SetShape:
    """The root qdisc of a link; None: the kernel's default one. ``fresh``: no fault had shaped it before."""

    end: End
    shape: Shape | None
    fresh: bool = False

    def __str__(self) -> str:
        return f"tc -n {self.end.netns} qdisc {'replace' if self.shape else 'delete'} dev {self.end.link} root"


@dataclass(frozen=True, slots=True)
class SetLink:
    """Changes of a link; None: as it is."""

    end: End
    up: bool | None = None
    mtu: int | None = None
    gso_max_segs: int | None = None

    def __str__(self) -> str:
        words = [] if self.up is None else ["up" if self.up else "down"]
        words += [] if self.mtu is None else [f"mtu {self.mtu}"]
        words += [] if self.gso_max_segs is None else [f"gso_max_segs {self.gso_max_segs}"]
        return f"ip -n {self.end.netns} link set {self.end.link} {' '.join(words)}"


@dataclass(frozen=True, slots=True)
class SetTable:
    """A table with this content; None: no such table."""

    table: Table
    content: str | None

    def __str__(self) -> str:
        return f"ip netns exec {self.table.netns} nft -f - <<'EOF'\n{self.render()}EOF"

    def render(self) -> str:
        """nft commands, of one transaction: whatever was there is replaced."""
        name = f"table {self.table.family} {self.table.name}"
        return f"{name}\ndelete {name}\n" + (f"{name} {{\n{self.content}}}\n" if self.content is not None else "")


Operation = SetShape | SetLink | SetTable


@dataclass(frozen=True, slots=True)
class Step:
    """An operation, and the one that takes it back."""

    do: Operation
    undo: Operation


def plan_wanted(faults: Iterable[Fault], fabric: str) -> Wanted:
    """What all these faults together ask for; ``fabric`` is the name of the fabric's namespace."""
    links: dict[End, LinkState] = {}
    tables: dict[Table, str] = {}
    for fault in faults:
        for cable in fault.cables:
            _plan_cable(links, fault, cable)
        if fault.kind == "loss" and fault.by == "nft":
            for netns in dict.fromkeys(cable.outer.netns for cable in fault.cables):
                here = [cable for cable in fault.cables if cable.outer.netns == netns]
                tables[Table(netns, "netdev", f"{FAULT_TABLE}{fault.number}")] = render_loss(fault, here)
        if fault.kind == "partition":
            tables[Table(fabric, "bridge", f"{FAULT_TABLE}{fault.number}")] = render_partition(fault)
    return Wanted(links, tables)


def _plan_cable(links: dict[End, LinkState], fault: Fault, cable: Cable) -> None:
    """Add what a fault asks of one cable."""

    def state(end: End) -> LinkState:
        return links.get(end, LinkState())

    if fault.kind in ("link-down", "stop"):
        links[cable.outer] = replace(state(cable.outer), down=True)
    elif fault.kind == "mtu":
        links[cable.inner] = replace(state(cable.inner), mtu=(fault.mtu, cable.mtu))
        links[cable.outer] = replace(state(cable.outer), gso_max_segs=(1, cable.gso_max_segs))
    elif fault.by in ("tbf", "netem"):
        ends = [cable.outer] * fault.goes_in + [cable.inner] * fault.goes_out
        for end in ends:
            old = state(end)
            links[end] = replace(old, shape=_add_shape(old.shape or Shape(mtu=cable.mtu), fault))


def _add_shape(shape: Shape, fault: Fault) -> Shape:
    match fault.kind:
        case "rate":
            return replace(shape, rate_bits=fault.rate_bits)
        case "delay":
            return replace(shape, delay_s=fault.delay_s, jitter_s=fault.jitter_s)
        case "reorder":
            return replace(shape, delay_s=fault.delay_s, reorder=fault.percent)
        case "loss":
            return replace(shape, loss=fault.percent)
        case "duplicate":
            return replace(shape, duplicate=fault.percent)
        case _:
            return replace(shape, corrupt=fault.percent)


def render_loss(fault: Fault, cables: Sequence[Cable]) -> str:
    """The content of a table that drops packets by chance, at the outer ends of cables of one namespace.

    At the ends' own hooks, before any rule of a node or of the fabric sees what arrives, and after all of them have
    seen what leaves. The sender is told nothing: bridges hide what became of a packet (br_forward, br_dev_xmit).
    """
    chance = max(1, round(fault.percent / 100 * _PARTS))
    # nft refuses to compare a random number with one it can't reach.
    match = f"numgen random mod {_PARTS} < {chance} " if chance < _PARTS else ""
    hooks = [("in", "egress")] * fault.goes_in + [("out", "ingress")] * fault.goes_out
    chains = []
    for number, cable in enumerate(cables):
        for word, hook in hooks:
            chains.append(
                f"\tchain {word}-{number} {{\n"
                f'\t\tcomment "{word} at {cable.place}"\n'
                f'\t\ttype filter hook {hook} device "{cable.outer.link}" priority 0; policy accept;\n'
                f"\t\t{match}counter drop\n"
                "\t}\n"
            )
    return "".join(chains)


def render_partition(fault: Fault) -> str:
    """The content of a bridge table that keeps the sets apart, by the ports of the fabric's bridge.

    Below addresses, so also ARP, neighbour discovery and VXLAN are cut. The external host is behind the fabric's
    router: what passes between the router and a port is cut where it is in the other set.
    """
    cables = {cable.place: cable for cable in fault.cables}
    forward: list[str] = []
    router: dict[str, list[str]] = {"input": [], "output": []}
    for one, other in combinations(fault.sets, 2):
        for a, b in ((one, other),) if fault.one_way else ((one, other), (other, one)):
            senders, receivers = (
                [cables[place].outer.link for place in side if not _is_external(place)] for side in (a, b)
            )
            if senders and receivers:
                forward.append(f"iifname {_set(senders)} oifname {_set(receivers)} counter drop")
            if any(map(_is_external, a)) and receivers:
                router["output"].append(f"oifname {_set(receivers)} counter drop")
            if any(map(_is_external, b)) and senders:
                router["input"].append(f"iifname {_set(senders)} counter drop")
    chains = {"forward": forward, **router}
    return "".join(
        f"\tchain {hook} {{\n\t\ttype filter hook {hook} priority -300; policy accept;\n"
        + "".join(f"\t\t{rule}\n" for rule in rules)
        + "\t}\n"
        for hook, rules in chains.items()
        if rules
    )


def _is_external(place: str) -> bool:
    return place == f"host/{EXTERNAL}"


def _set(names: Sequence[str]) -> str:
    return "{ " + ", ".join(f'"{name}"' for name in names) + " }"


def plan_change(before: Wanted, after: Wanted) -> tuple[Step, ...]:
    """The steps from one state to the other, each with the way back."""
    steps: list[Step] = []
    for table in sorted({*before.tables, *after.tables}):
        old, new = before.tables.get(table), after.tables.get(table)
        if old != new:
            steps.append(Step(SetTable(table, new), SetTable(table, old)))
    nothing = LinkState()
    for end in dict.fromkeys((*before.links, *after.links)):
        was, is_to_be = before.links.get(end, nothing), after.links.get(end, nothing)
        if was.shape != is_to_be.shape:
            do = SetShape(end, is_to_be.shape, fresh=was.shape is None)
            steps.append(Step(do, SetShape(end, was.shape)))
        there, back = _link_change(end, was, is_to_be), _link_change(end, is_to_be, was)
        if there != SetLink(end):
            steps.append(Step(there, back))
    return tuple(steps)


def _link_change(end: End, was: LinkState, is_to_be: LinkState) -> SetLink:
    def value(old: tuple[int, int] | None, new: tuple[int, int] | None) -> int | None:
        if old == new:
            return None
        return new[0] if new is not None else old[1] if old is not None else None

    return SetLink(
        end,
        up=None if was.down == is_to_be.down else not is_to_be.down,
        mtu=value(was.mtu, is_to_be.mtu),
        gso_max_segs=value(was.gso_max_segs, is_to_be.gso_max_segs),
    )


def forget_links(wanted: Wanted, ends: Iterable[End]) -> Wanted:
    """``wanted`` without links that are gone, and took with them what was asked of them."""
    gone = set(ends)
    return Wanted({end: state for end, state in wanted.links.items() if end not in gone}, wanted.tables)
