"""Follow a packet through a table of nf_tables in memory, by the kernel's own programs: every fate it may meet.

A number drawn at random is followed every way. Only the first packet of a flow is modelled, as nat sees no other.
Source: net/netfilter/nf_tables_core.c (nft_do_chain) and the expressions' files beside it.
"""

import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from netsim.model.errors import InputError
from netsim.ruleset import nft
from netsim.ruleset.iptables_walk import Fate, Packet
from netsim.ruleset.nft_model import Table

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1}
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_STATES = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8}
_DNAT = 1 << 5
_MAX_DEPTH = 16  # NFT_JUMP_STACK_SIZE

_Step = tuple[str, str, Packet]  # verdict, the chain it names, the packet as it is then; verdict "": go on
_Registers = dict[int, bytes]  # 4 bytes each


@dataclass(frozen=True, slots=True)
class NftWalker:
    """A node: its table, its own addresses, and the clients in dynamic sets, as (set, address)."""

    table: Table
    local: Collection[str] = ("127.0.0.1",)
    recent: Collection[tuple[str, str]] = ()

    def walk(self, packet: Packet) -> set[Fate]:
        """Every fate of ``packet``. Raises InputError for what the kernel would refuse to load."""
        first = "prerouting" if packet.interface else "output"
        return {fate for verdict, after in self._hook(first, packet) for fate in self._after(first, verdict, after)}

    def _after(self, hook: str, verdict: str, packet: Packet) -> Iterator[Fate]:
        if verdict in ("drop", "reject"):
            yield Fate(verdict.upper())
            return
        following = ""
        if hook == "prerouting":
            following = "input" if self._is_local(packet.destination) else "forward"
        elif hook in ("forward", "output"):
            following = "postrouting"
        elif hook == "postrouting" and not packet.interface and self._is_local(packet.destination):
            # To itself: over lo, and in again. Nat in prerouting has nothing to say, as the flow is known.
            packet, following = replace(packet, interface="lo"), "input"
        if not following:
            yield Fate("ACCEPT", packet.destination, packet.port, packet.masqueraded, packet.remembered)
            return
        for found, after in self._hook(following, packet):
            yield from self._after(following, found, after)

    def _hook(self, hook: str, packet: Packet) -> Iterator[tuple[str, Packet]]:
        chains = [(h.priority, name) for name, h in self.table.hooks.items() if h.hook == hook]
        yield from self._base_chains([name for _, name in sorted(chains)], packet)

    def _base_chains(self, names: list[str], packet: Packet) -> Iterator[tuple[str, Packet]]:
        if not names:
            yield "accept", packet
            return
        for verdict, _, after in self._chain(names[0], packet, 0):
            if verdict in ("drop", "reject"):
                yield verdict, after
            else:  # accepted, or the policy: on to the next base chain
                yield from self._base_chains(names[1:], after)

    def _chain(self, name: str, packet: Packet, depth: int) -> Iterator[_Step]:
        if depth > _MAX_DEPTH:
            raise InputError(f"{name}: more than {_MAX_DEPTH} jumps in a row")
        yield from self._rules(self.table.chains[name], 0, packet, depth)

    def _rules(self, rules: list[nft.Rule], at: int, packet: Packet, depth: int) -> Iterator[_Step]:
        if at == len(rules):
            yield "", "", packet
            return
        for verdict, chain, after in self._program(rules[at].expressions, 0, {}, packet):
            if verdict == "":
                yield from self._rules(rules, at + 1, after, depth)
            elif verdict == "return":
                yield "", "", after
            elif verdict == "goto":
                yield from self._chain(chain, after, depth + 1)
            elif verdict == "jump":
                for inner, _, later in self._chain(chain, after, depth + 1):
                    if inner:
                        yield inner, "", later
                    else:
                        yield from self._rules(rules, at + 1, later, depth)
            else:
                yield verdict, "", after

    def _program(  # noqa: PLR0912 - a case for each expression that ends a rule or parts the ways
        self, program: tuple[nft.Expression, ...], at: int, registers: _Registers, packet: Packet
    ) -> Iterator[_Step]:
        """The ways on from expression ``at``; "" when a match fails or the rule is at its end."""
        while at < len(program):
            expression = program[at]
            at += 1
            match expression:
                case nft.Random(register, modulus, offset):
                    for number in range(offset, offset + modulus):
                        drawn = registers | {register: number.to_bytes(4, "little")}
                        yield from self._program(program, at, drawn, packet)
                    return
                case nft.Verdict(word, chain):
                    yield word, chain, packet
                    return
                case nft.Reject():
                    yield "reject", "", packet
                    return
                case nft.Masquerade():
                    yield "accept", "", replace(packet, masqueraded=True)
                    return
                case nft.DestinationNat(address, port):
                    yield "accept", "", self._translate(packet, registers, address, port)
                    return
                case nft.SetMark(register):
                    packet = replace(packet, mark=int.from_bytes(registers[register], "little"))
                case nft.Remember(verb, name):
                    packet = _remember(packet, verb, name)
                case nft.Lookup():
                    found = self._look_up(expression, registers, packet)
                    if found is None:
                        break
                    if expression.to == nft.VERDICT:
                        yield "goto", found.decode(), packet
                        return
                    if expression.to is not None:
                        _store(registers, expression.to, found)
                case _:
                    if not self._evaluate(expression, registers, packet):
                        break
        yield "", "", packet

    def _evaluate(self, expression: nft.Expression, registers: _Registers, packet: Packet) -> bool:
        """Run an expression that only reads; whether the rule goes on."""
        match expression:
            case nft.Payload(register, header, offset, length):
                _store(registers, register, _header(packet, header)[offset : offset + length])
            case nft.Meta(register, key):
                _store(registers, register, _meta(packet, key))
            case nft.Conntrack(register, key):
                bits = sum(_STATES.get(state, 0) for state in packet.states)
                _store(
                    registers, register, (bits if key == "state" else _DNAT * packet.translated).to_bytes(4, "little")
                )
            case nft.Fib(register, source):
                local = self._is_local(packet.source if source else packet.destination)
                _store(registers, register, (_RTN_LOCAL if local else _RTN_UNICAST).to_bytes(4, "little"))
            case nft.Load(register, value):
                _store(registers, register, value)
            case nft.Bitwise(register, mask, xor):
                before = _fetch(registers, register, len(mask))
                _store(registers, register, bytes(b & m ^ x for b, m, x in zip(before, mask, xor, strict=True)))
            case nft.Compare(register, equal, value):
                return (_fetch(registers, register, len(value)) == value) == equal
            case _:
                raise InputError(f"{expression} is not modelled")
        return True

    def _look_up(self, lookup: nft.Lookup, registers: _Registers, packet: Packet) -> bytes | None:
        """The value (b"" of a set), or None when the rule does not go on."""
        spec = self.table.sets[lookup.set]
        elements = self.table.elements[lookup.set]
        key = _fetch(registers, lookup.key, nft.width(spec.key))
        if spec.dynamic:
            found = b"" if (lookup.set, packet.source) in self.recent else None
        elif spec.interval:
            half = len(key)
            found = b"" if any(_within(spec, e[:half], key, e[half:]) for e in elements) else None
        else:
            found = elements.get(key)
        if lookup.invert:
            return b"" if found is None else None
        return found

    def _translate(self, packet: Packet, registers: _Registers, address: int, port: int) -> Packet:
        length = 16 if ":" in packet.destination else 4
        family = socket.AF_INET6 if length == 16 else socket.AF_INET
        return replace(
            packet,
            destination=socket.inet_ntop(family, _fetch(registers, address, length)),
            port=int.from_bytes(_fetch(registers, port, 2), "big"),
            states=packet.states | {"DNAT"},
        )

    def _is_local(self, address: str) -> bool:
        return address in self.local or ip_address(address).is_loopback


def _remember(packet: Packet, verb: str, name: str) -> Packet:
    known = packet.remembered - {name} if verb == "delete" else packet.remembered | {name}
    return replace(packet, remembered=known)


def _header(packet: Packet, header: int) -> bytes:
    """The network (1) or transport header (2), zeros but for addresses and the destination port."""
    if header == 2:
        return bytes(2) + packet.port.to_bytes(2, "big")
    start = 8 if ":" in packet.source else 12
    return bytes(start) + nft.pack_address(packet.source) + nft.pack_address(packet.destination)


def _meta(packet: Packet, key: str) -> bytes:
    if key == "mark":
        return packet.mark.to_bytes(4, "little")
    if key == "iifname":
        return packet.interface.encode().ljust(16, b"\0")
    return bytes((_PROTOCOLS[packet.protocol],))


def _store(registers: _Registers, register: int, value: bytes) -> None:
    for at in range(0, len(value), 4):
        registers[register + at // 4] = value[at : at + 4].ljust(4, b"\0")


def _fetch(registers: _Registers, register: int, length: int) -> bytes:
    try:
        whole = b"".join(registers[register + at] for at in range((length + 3) // 4))
    except KeyError as error:
        raise InputError(f"register {error} is read before anything was put there") from None
    return whole[:length]


def _within(spec: nft.SetSpec, first: bytes, key: bytes, last: bytes) -> bool:
    """Whether each field of the key lies between those of the first and the last."""
    at = 0
    for part in spec.key:
        end = at + nft.padded(part.length)
        if not first[at:end] <= key[at:end] <= last[at:end]:
            return False
        at = end
    return True
