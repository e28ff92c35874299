"""Which element of a map or set decided, for each traced rule of nf_tables that looks something up.

The trace names the rule and not the element, so the rule's program is read back and followed with the packet: loads,
masks and the look-up, whose key then asks the set. A key that holds a random number is tried with each; the one whose
value is where the packet went afterwards is it. What can't be known (conntrack's state, say) leaves the element out.

Sources: include/uapi/linux/netfilter/nf_tables.h; net/netfilter/nf_tables_api.c (nft_parse_register).
"""

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from netsim.kernel.nft_trace import RuleTrace
from netsim.kernel.rtnl_wire import parse_attributes, walk_attributes
from netsim.model.errors import KernelError
from netsim.observe.evidence import RuleEvent
from netsim.observe.posts import Post
from netsim.observe.set_values import render_value

_REGISTER_BYTES = 64
_MOST_TRIED = 256  # endpoints of one Service whose element is looked for
_NETWORK, _TRANSPORT = 1, 2
_PROTOCOLS = {4: b"\x08\x00", 6: b"\x86\xdd"}
_FAMILIES = {4: 2, 6: 10}
_VERDICT = 0xFFFFFF00  # NFT_DATA_VERDICT
_VERDICTS = {
    0: "drop",
    1: "accept",
    0xFFFFFFFF: "continue",
    0xFFFFFFFD: "jump",
    0xFFFFFFFC: "goto",
    0xFFFFFFFB: "return",
}

Destination = tuple[bytes, bytes]  # address, port


@dataclass(frozen=True, slots=True)
class _Random:
    """A register that holds one of ``offset`` .. ``offset + modulus - 1``."""

    at: int
    modulus: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a rule could look at."""

    packet: bytes
    interface_in: str
    interface_out: str
    mark: int | None


def read_elements(post: Post, events: Sequence[RuleEvent], destinations: Collection[Destination]) -> Mapping[int, str]:
    """The element that decided, by the event's position in ``events``, which are all of ``post``.

    ``destinations``: where packets of the probe were seen to go at this place. Raises KernelError.
    """
    if post.trace is None:
        return {}
    found: dict[int, str] = {}
    programs: dict[tuple[str, str, str], dict[int, bytes]] = {}
    for position, event, seen in _with_packets(events):
        if event.backend == "iptables-legacy" or event.kind != "rule":
            continue
        chain = (event.family, event.table, event.chain)
        if chain not in programs:
            programs[chain] = dict(post.trace.rules(*chain))
        program = programs[chain].get(event.handle)
        if program is not None and b"lookup\0" in program:
            element = _Follow(post.trace, event, seen, destinations).element(program)
            if element:
                found[position] = element
    return found


def _with_packets(events: Sequence[RuleEvent]) -> Iterator[tuple[int, RuleEvent, _Seen]]:
    """Each event with its packet, which only a base chain's first event carries."""
    last: dict[int, _Seen] = {}
    for position, event in enumerate(events):
        if event.packet:
            last[event.packet_id] = _Seen(event.packet, event.interface_in, event.interface_out, event.mark)
        seen = last.get(event.packet_id)
        if seen is not None:
            mark = seen.mark if event.mark is None else event.mark
            yield position, event, _Seen(seen.packet, seen.interface_in, seen.interface_out, mark)


class _Follow:
    """One rule's program, followed as far as it can be known. ``None`` bytes of a register are not."""

    def __init__(self, trace: RuleTrace, event: RuleEvent, seen: _Seen, destinations: Collection[Destination]) -> None:
        self._trace = trace
        self._event = event
        self._seen = seen
        self._destinations = destinations
        self._registers: list[int | None] = [None] * _REGISTER_BYTES
        self._random: _Random | None = None
        self._found: list[str] = []

    def element(self, program: bytes) -> str:
        """The last look-up's element: of a rule with several, the one that gave the verdict or the address."""
        for _, entry in walk_attributes(program):
            expression = parse_attributes(entry)
            self._step(expression.get(1, b"").rstrip(b"\0").decode(), parse_attributes(expression.get(2, b"")))
        return self._found[-1] if self._found else ""

    def _step(self, name: str, data: Mapping[int, bytes]) -> None:
        match name:
            case "payload" if 1 in data:
                self._set(_register(data[1]), self._payload(data), _number(data, 4))
            case "meta" if 1 in data:
                value = self._meta(_number(data, 2))
                self._set(_register(data[1]), value, len(value) if value else 4)
            case "bitwise":
                self._bitwise(data)
            case "immediate" if 2 in data:
                value = parse_attributes(data[2]).get(1)
                if value is not None:
                    self._set(_register(data[1]), value, len(value))
            case "numgen":
                at = _register(data[1])
                self._random = _Random(at, _number(data, 2), _number(data, 4))
                self._set(at, None, 4)
            case "lookup":
                self._lookup(data)
            case "fib" | "ct" | "hash" | "rt" | "socket" | "byteorder" | "osf" | "tunnel" | "xfrm":
                register = {"fib": 1, "ct": 1, "byteorder": 2, "hash": 2}.get(name, 1)
                if register in data:
                    self._set(_register(data[register]), None, 16)

    def _payload(self, data: Mapping[int, bytes]) -> bytes | None:
        base, offset, length = _number(data, 2), _number(data, 3), _number(data, 4)
        packet = self._seen.packet
        start = {_NETWORK: 0, _TRANSPORT: (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40}.get(base)
        if start is None or start + offset + length > len(packet):
            return None
        return packet[start + offset : start + offset + length]

    def _meta(self, key: int) -> bytes | None:
        """NFT_META_*: protocol, mark, iifname, oifname, nfproto, l4proto."""
        version = self._seen.packet[0] >> 4
        match key:
            case 1:
                return _PROTOCOLS.get(version)
            case 3:
                return None if self._seen.mark is None else struct.pack("=I", self._seen.mark)
            case 6 | 7:
                name = self._seen.interface_in if key == 6 else self._seen.interface_out
                return name.encode().ljust(16, b"\0")
            case 15:
                return bytes((_FAMILIES.get(version, 0),))
            case 16:
                return self._seen.packet[9:10] if version == 4 else self._seen.packet[6:7]
        return None

    def _bitwise(self, data: Mapping[int, bytes]) -> None:
        source, target, length = _register(data[1]), _register(data[2]), _number(data, 3)
        value = self._get(source, length)
        mask, xor = (parse_attributes(data.get(kind, b"")).get(1) for kind in (4, 5))
        if value is None or mask is None or xor is None:
            self._set(target, None, length)
            return
        self._set(target, bytes(v & m ^ x for v, m, x in zip(value, mask, xor, strict=True)), length)

    def _lookup(self, data: Mapping[int, bytes]) -> None:
        name = data.get(1, b"").rstrip(b"\0").decode()
        spec = self._trace.set_info(self._event.family, self._event.table, name)
        if spec is None or _number(data, 5) & 1:  # "not in": no element decided
            return
        at, length = _register(data[2]), _number(spec, 5)
        for key in self._keys(at, length):
            try:
                element = self._trace.element(self._event.family, self._event.table, name, key)
            except KernelError:  # a set type that can't be asked for one key
                return
            if element is None:
                continue
            value = parse_attributes(element.get(2, b""))
            if self._random is not None and not self._went_to(value.get(1, b"")):
                continue
            self._found.append(_render(spec, element, value))
            if 3 in data and 1 in value:
                self._set(_register(data[3]), value[1], len(value[1]))
            return

    def _keys(self, at: int, length: int) -> Iterator[bytes]:
        """The key in the registers; with a random number in it, each that there may be."""
        random = self._random
        if random is None or not at <= random.at < at + length:
            self._random = None
            key = self._get(at, length)
            if key is not None:
                yield key
            return
        for number in range(random.offset, random.offset + min(random.modulus, _MOST_TRIED)):
            self._set(random.at, struct.pack("=I", number), 4)
            key = self._get(at, length)
            if key is not None:
                yield key

    def _went_to(self, value: bytes) -> bool:
        return any(value.startswith(address) and port in (b"", value[len(address) : len(address) + 2])
                   for address, port in self._destinations)  # fmt: skip

    def _get(self, at: int, length: int) -> bytes | None:
        values = self._registers[at : at + length]
        known = [value for value in values if value is not None]
        return bytes(known) if len(known) == length else None

    def _set(self, at: int, value: bytes | None, length: int) -> None:
        """Whole registers of 4 bytes, as the kernel writes them; what is not ``value`` is zero."""
        padded = (length + 3) & ~3
        if value is None:
            self._registers[at : at + padded] = [None] * padded
        else:
            self._registers[at : at + padded] = value.ljust(padded, b"\0")
        del self._registers[_REGISTER_BYTES:]


def _register(data: bytes) -> int:
    """Where a register's bytes are: NFT_REG_1 to 4 have 16 each, NFT_REG32_00 and on 4 each, over the same 64."""
    number = int.from_bytes(data, "big")
    return (number - 1) * 16 if number < 8 else (number - 8) * 4


def _number(data: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(data.get(kind, b""), "big")


def _render(spec: Mapping[int, bytes], element: Mapping[int, bytes], value: Mapping[int, bytes]) -> str:
    key = parse_attributes(element.get(1, b"")).get(1, b"")
    text = render_value(_number(spec, 4), key)
    end = parse_attributes(element.get(10, b"")).get(1)
    if end is not None and end != key:
        text += " - " + render_value(_number(spec, 4), end)
    if 2 in value:
        verdict = parse_attributes(value[2])
        word = _VERDICTS.get(_number(verdict, 1), "?")
        return f"{text} : {word} {verdict.get(2, b'').rstrip(bytes(1)).decode()}".rstrip()
    if 1 in value and _number(spec, 6) != _VERDICT:
        return f"{text} : {render_value(_number(spec, 6), value[1])}"
    return text
