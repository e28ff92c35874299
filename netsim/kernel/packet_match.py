"""What one packet looks like wherever it is met, as data; and that as a packet filter, as nf_tables rules, in Python.

Addresses and ports change on a packet's way, so a pattern looks at what does not: from the transport header on, at
fixed offsets. It takes an IP header without options or extension headers; packets of netsim's probes have none, but
where they travel in pieces IPv6's fragment header, which a pattern has as its protocol.
Sources: Documentation/networking/filter.rst; include/uapi/linux/netfilter/nf_tables.h.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from netsim.kernel.bpf import BpfProgram
from netsim.kernel.nft_wire import number
from netsim.kernel.rtnl_wire import attribute, nested, text

ETHER_BYTES = 14
_ETHER_TYPES = {4: 0x0800, 6: 0x86DD}
IP_BYTES = {4: 20, 6: 40}
_PROTOCOL_AT = {4: 9, 6: 6}  # in the IP header

# Classic BPF (include/uapi/linux/bpf_common.h)
_LOAD = {4: 0x20, 2: 0x28, 1: 0x30}  # ld, ldh, ldb [k]
_LOAD_LENGTH, _JEQ, _JGT, _JGE, _RET = 0x80, 0x15, 0x25, 0x35, 0x06

# nf_tables.h: enum nft_registers, nft_payload_bases, nft_cmp_ops, nft_meta_keys
_REGISTER = 8  # NFT_REG32_00
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_EQUAL, _AT_MOST, _AT_LEAST = 0, 3, 5
_META_L4PROTO = 16


@dataclass(frozen=True, slots=True)
class Test:
    """The bytes at an offset from the transport header are between two values, both included; of one length, 1 to 16.

    A range has 1, 2 or 4 bytes.
    """

    at: int
    low: bytes
    high: bytes

    @property
    def end(self) -> int:
        return self.at + len(self.low)

    def shifted(self, by: int) -> "Test":
        return Test(self.at + by, self.low, self.high)


def equals(at: int, value: bytes) -> Test:
    """These bytes and no others."""
    return Test(at, value, value)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Packets of an IP protocol that pass all tests, in both address families or in one."""

    protocol: int
    tests: tuple[Test, ...]
    families: tuple[int, ...] = (4, 6)

    @property
    def end(self) -> int:
        """How much there must be from the transport header on."""
        return max((test.end for test in self.tests), default=0)

    def matches(self, packet: bytes) -> bool:
        """``packet`` from its IP header on, possibly cut."""
        if not packet:
            return False
        family = packet[0] >> 4
        start = IP_BYTES.get(family, 0)
        if family not in self.families or len(packet) < start + self.end:
            return False
        if packet[_PROTOCOL_AT[family]] != self.protocol or (family == 4 and packet[0] != 0x45):
            return False
        return all(test.low <= packet[start + test.at : start + test.end] <= test.high for test in self.tests)


def compile_filter(patterns: Sequence[Pattern], *, snaplen: int, but: Sequence[Pattern] = ()) -> BpfProgram:
    """A filter over Ethernet frames that keeps ``snaplen`` bytes of those that one of the patterns matches.

    Of those that one of ``but`` matches it keeps none.
    """
    instructions: list[tuple[int, int, int, int]] = []
    for pattern, kept in (*((one, 0) for one in but), *((one, snaplen) for one in patterns)):
        for family in pattern.families:
            instructions += _compile(pattern, family, kept)
    return BpfProgram.assemble([*instructions, (_RET, 0, 0, 0)])


def _compile(pattern: Pattern, family: int, snaplen: int) -> list[tuple[int, int, int, int]]:
    """Every condition is a load and a jump out of this block when it does not hold."""
    start = ETHER_BYTES + IP_BYTES[family]
    conditions: list[tuple[tuple[int, int], tuple[int, int], bool]] = [
        # A load behind a frame's end would end the program, and so the patterns that come after.
        ((_LOAD_LENGTH, 0), (_JGE, start + pattern.end), True),
        ((_LOAD[2], 12), (_JEQ, _ETHER_TYPES[family]), True),
        ((_LOAD[1], ETHER_BYTES + _PROTOCOL_AT[family]), (_JEQ, pattern.protocol), True),
    ]
    if family == 4:
        conditions.append(((_LOAD[1], ETHER_BYTES), (_JEQ, 0x45), True))
    for test in pattern.tests:
        conditions += _conditions(test, start)
    block: list[tuple[int, int, int, int]] = []
    left = 2 * len(conditions)
    for (load, at), (jump, value), wanted in conditions:
        left -= 2
        out = left + 1  # behind the block's return
        block += [(load, 0, 0, at), (jump, 0, out, value) if wanted else (jump, out, 0, value)]
    return [*block, (_RET, 0, 0, snaplen)]


def _conditions(test: Test, start: int) -> Iterable[tuple[tuple[int, int], tuple[int, int], bool]]:
    at, low, high = start + test.at, test.low, test.high
    if low != high:
        load = (_LOAD[len(low)], at)
        yield load, (_JGE, int.from_bytes(low, "big")), True
        yield load, (_JGT, int.from_bytes(high, "big")), False
        return
    done = 0
    while done < len(low):
        size = next(size for size in (4, 2, 1) if done + size <= len(low))
        yield (_LOAD[size], at + done), (_JEQ, int.from_bytes(low[done : done + size], "big")), True
        done += size


# --- as nf_tables expressions: the bytes of NFTA_RULE_EXPRESSIONS' list ---


def expression(name: str, *attributes: bytes) -> bytes:
    """One element of a rule's program."""
    return nested(1, text(1, name) + nested(2, *attributes))


def load_payload(register: int, header: int, at: int, length: int) -> bytes:
    return expression("payload", number(1, register), number(2, header), number(3, at), number(4, length))


def compare(register: int, value: bytes, operation: int = _EQUAL) -> bytes:
    return expression("cmp", number(1, register), number(2, operation), nested(3, attribute(1, value)))


def encode_pattern(pattern: Pattern) -> bytes:
    """The conditions of a rule in a chain of family inet."""
    program = expression("meta", number(1, _REGISTER), number(2, _META_L4PROTO))
    program += compare(_REGISTER, bytes((pattern.protocol,)))
    for test in pattern.tests:
        program += load_payload(_REGISTER, _TRANSPORT_HEADER, test.at, len(test.low))
        if test.low == test.high:
            program += compare(_REGISTER, test.low)
        else:
            program += compare(_REGISTER, test.low, _AT_LEAST) + compare(_REGISTER, test.high, _AT_MOST)
    return program
