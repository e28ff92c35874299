"""nf_tables as data: sets, chains, rules as the kernel's own expressions, and edits of one table.

A rule is the kernel's program (registers, lookups) and beside it the words ``nft list`` shows for it. Not nft's text
alone, as making it from text is most of the time that a large table takes nft. Registers have numbers from 0 to 15
and 4 bytes each.
"""

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# --- types of sets ---


class FieldType(NamedTuple):
    """A part of a key or value: nft's word for it, nft's number for that (datatype.h), and its bytes."""

    word: str
    number: int
    length: int
    host_endian: bool = False


IPV4 = FieldType("ipv4_addr", 7, 4)
IPV6 = FieldType("ipv6_addr", 8, 16)
PROTOCOL = FieldType("inet_proto", 12, 1)
PORT = FieldType("inet_service", 13, 2)
NUMBER = FieldType("mark", 19, 4, True)  # nft prints any 4-byte number that is no length or time so
ADDRESS = {4: IPV4, 6: IPV6}


@dataclass(frozen=True, slots=True)
class SetSpec:
    """A set (``data`` empty and ``verdicts`` False), or a map. ``dynamic``: packets add elements, which time out.

    ``interval``: the last field of the key is a range of addresses. ``size``: the most elements, 0 for no limit.
    """

    name: str
    key: tuple[FieldType, ...]
    data: tuple[FieldType, ...] = ()
    verdicts: bool = False
    dynamic: bool = False
    interval: bool = False
    size: int = 0
    comment: str = ""

    @property
    def is_map(self) -> bool:
        return bool(self.data) or self.verdicts

    def __str__(self) -> str:
        value = "verdict" if self.verdicts else " . ".join(field.word for field in self.data)
        words = " . ".join(field.word for field in self.key)
        flags = ", ".join(
            word
            for word, on in (("dynamic", self.dynamic), ("interval", self.interval), ("timeout", self.dynamic))
            if on
        )
        parts = [f"type {words}{' : ' + value if value else ''};"]
        parts += [f"size {self.size};"] if self.size else []
        parts += [f"flags {flags};"] if flags else []
        return f"{'map' if self.is_map else 'set'} {self.name} {{ {' '.join(parts)} }}"


def padded(length: int) -> int:
    """Bytes of a field in a concatenation: whole registers."""
    return (length + 3) & ~3


def width(fields: Iterable[FieldType]) -> int:
    """Bytes of a key or value. A single field stands as it is, several are padded each."""
    fields = tuple(fields)
    return fields[0].length if len(fields) == 1 else sum(padded(field.length) for field in fields)


def pack_address(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def render_value(fields: Sequence[FieldType], value: bytes) -> str:
    """A key or value as nft writes it."""
    words, at = [], 0
    for field in fields:
        part = value[at : at + field.length]
        at += padded(field.length)
        words.append(_render_field(field, part))
    return " . ".join(words)


_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


def _render_field(field: FieldType, part: bytes) -> str:
    if field in (IPV4, IPV6):
        return socket.inet_ntop(socket.AF_INET if field is IPV4 else socket.AF_INET6, part)
    if field is PROTOCOL:
        return _PROTOCOLS.get(part[0], str(part[0]))
    if field is PORT:
        return str(int.from_bytes(part, "big"))
    return f"0x{int.from_bytes(part, 'little'):08x}"


# --- expressions: what a rule does, one after the other (linux/netfilter/nf_tables.h) ---


class Payload(NamedTuple):
    """Bytes of the network (``header`` 1) or transport header (2) into registers."""

    register: int
    header: int
    offset: int
    length: int


class Meta(NamedTuple):
    """``key``: mark, iifname, l4proto."""

    register: int
    key: str


class SetMark(NamedTuple):
    register: int


class Conntrack(NamedTuple):
    """``key``: state or status."""

    register: int
    key: str


class Fib(NamedTuple):
    """The type of the source or destination address: 2 is the node's own (RTN_LOCAL)."""

    register: int
    source: bool


class Bitwise(NamedTuple):
    """``register = (register & mask) ^ xor``, as many bytes as ``mask`` and ``xor`` have."""

    register: int
    mask: bytes
    xor: bytes


class Compare(NamedTuple):
    register: int
    equal: bool
    value: bytes


class Load(NamedTuple):
    """A constant into registers."""

    register: int
    value: bytes


class Lookup(NamedTuple):
    """Go on if the key is in the set (or, ``invert``, not in it); of a map take the value to ``to``.

    ``to`` VERDICT: the value is a verdict.
    """

    key: int
    set: str
    to: int | None = None
    invert: bool = False


VERDICT = -1


class Random(NamedTuple):
    """``offset`` to ``offset + modulus - 1``, each as likely."""

    register: int
    modulus: int
    offset: int


class Remember(NamedTuple):
    """``verb``: add, update (a new timeout too) or delete an element from within a packet."""

    verb: str
    set: str
    key: int
    data: int | None = None
    timeout_s: int = 0


class DestinationNat(NamedTuple):
    address: int
    port: int


class Masquerade(NamedTuple):
    """With a random port (fully-random)."""


class Reject(NamedTuple):
    """ICMP port unreachable."""


class Verdict(NamedTuple):
    """``word``: drop, accept, return, jump, goto."""

    word: str
    chain: str = ""


Expression = (
    Payload
    | Meta
    | SetMark
    | Conntrack
    | Fib
    | Bitwise
    | Compare
    | Load
    | Lookup
    | Random
    | Remember
    | DestinationNat
    | Masquerade
    | Reject
    | Verdict
)


class Rule(NamedTuple):
    """``text``: as ``nft list`` shows it."""

    text: str
    expressions: tuple[Expression, ...]


class Hook(NamedTuple):
    """Where a base chain sits. ``kind``: nat or filter."""

    kind: str
    hook: str
    priority: int


# --- edits of a table ---


class AddTable(NamedTuple):
    comment: str = ""

    def __str__(self) -> str:
        return "add table"


class DeleteTable(NamedTuple):
    def __str__(self) -> str:
        return "delete table"


class AddSet(NamedTuple):
    spec: SetSpec

    def __str__(self) -> str:
        return f"add {self.spec}"


class DeleteSet(NamedTuple):
    name: str

    def __str__(self) -> str:
        return f"delete set {self.name}"


class AddChain(NamedTuple):
    name: str
    hook: Hook | None = None

    def __str__(self) -> str:
        if self.hook is None:
            return f"add chain {self.name}"
        kind, hook, priority = self.hook
        return f"add chain {self.name} {{ type {kind} hook {hook} priority {priority}; policy accept; }}"


class DeleteChain(NamedTuple):
    name: str

    def __str__(self) -> str:
        return f"delete chain {self.name}"


class FlushRules(NamedTuple):
    """Of one chain, or ("") of all."""

    chain: str = ""

    def __str__(self) -> str:
        return f"flush chain {self.chain}" if self.chain else "flush table"


class AddRule(NamedTuple):
    chain: str
    rule: Rule

    def __str__(self) -> str:
        return f"add rule {self.chain} {self.rule.text}"


class AddElements(NamedTuple):
    """Keys with their values (b"" in a set). In a map of verdicts the value is the chain to go to."""

    spec: SetSpec
    elements: Sequence[tuple[bytes, bytes]]

    def __str__(self) -> str:
        return "\n".join(f"add element {self.spec.name} {{ {self._render(key, data)} }}" for key, data in self.elements)

    def _render(self, key: bytes, data: bytes) -> str:
        words = render_key(self.spec, key)
        if self.spec.verdicts:
            return f"{words} : goto {data.decode()}"
        return f"{words} : {render_value(self.spec.data, data)}" if self.spec.data else words


class DeleteElements(NamedTuple):
    spec: SetSpec
    keys: Sequence[bytes]

    def __str__(self) -> str:
        name = self.spec.name
        return "\n".join(f"delete element {name} {{ {render_key(self.spec, key)} }}" for key in self.keys)


Edit = (
    AddTable
    | DeleteTable
    | AddSet
    | DeleteSet
    | AddChain
    | DeleteChain
    | FlushRules
    | AddRule
    | AddElements
    | DeleteElements
)


def render_key(spec: SetSpec, key: bytes) -> str:
    """A key as nft writes it. That of an interval set is first and last key in one."""
    if not spec.interval:
        return render_value(spec.key, key)
    half = len(key) // 2
    first, last = render_value(spec.key, key[:half]), render_value(spec.key, key[half:])
    last = last.rpartition(" . ")[2]
    return first if first.endswith(f" . {last}") else f"{first}-{last}"


def render_edits(edits: Iterable[Edit], table: str) -> str:
    """The edits as text, a line each: nft's commands for one table (``table`` is ``ip kube-proxy``, said once)."""
    lines = "\n".join(str(edit) for edit in edits)
    return f"# {table}\n{lines}\n" if lines else ""
