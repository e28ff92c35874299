"""nf_tables on the wire: edits of one table in, the bytes of one transaction out. Pure.

Not libnftables, which parses text for each element, and whose grammar lacks what the kernel can do. Sources:
include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h, net/netfilter/nf_tables_api.c.
"""

import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from netsim.kernel.rtnl_wire import HEADER, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, attribute, nested, text
from netsim.ruleset import nft

BATCH_BEGIN, BATCH_END = 16, 17
SUBSYSTEM = 10
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE = range(9)
NEWSET, GETSET, DELSET, NEWSETELEM, GETSETELEM, DELSETELEM = range(9, 15)
NLM_F_APPEND = 0x800
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_GENERIC = struct.Struct("=BBH")  # struct nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")
_MAX_LIST_BYTES = 60000  # an attribute's length has 16 bits

_SET_CONSTANTS = {"interval": 0x4, "map": 0x8, "timeout": 0x10, "eval": 0x20, "concat": 0x80}
_VERDICT_TYPE = 0xFFFFFF00  # NFT_DATA_VERDICT
_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_VERDICTS = {"drop": 0, "accept": 1, "jump": -3, "goto": -4, "return": -5}
_META = {"mark": 3, "iifname": 6, "l4proto": 16}
_CONNTRACK = {"state": 0, "status": 2}
_DYNSET = {"add": 0, "update": 1, "delete": 2}
_RANDOM_FULLY = 1 << 4  # NF_NAT_RANGE_PROTO_RANDOM_FULLY


class Request:
    """One message of a transaction: its number, flags and body, and the edit it comes from, for errors."""

    __slots__ = ("body", "edit", "flags", "kind")

    def __init__(self, kind: int, flags: int, body: bytes, edit: object) -> None:
        self.kind = kind
        self.flags = flags
        self.body = body
        self.edit = edit

    def __len__(self) -> int:
        """Bytes on the wire."""
        return HEADER.size + _GENERIC.size + len(self.body)


def number(kind: int, value: int) -> bytes:
    """An attribute that holds a 32-bit number, in network order as nf_tables has them."""
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def generic(family: int) -> bytes:
    return _GENERIC.pack(FAMILIES[family], 0, 0)


def encode_batch(requests: Sequence[Request], family: int, sequence: int) -> bytes:
    """One transaction. Message i has the number ``sequence + 1 + i``; the last one asks for an answer."""
    begin = _GENERIC.pack(0, 0, socket.htons(SUBSYSTEM))
    parts = [HEADER.pack(HEADER.size + len(begin), BATCH_BEGIN, NLM_F_REQUEST, sequence, 0), begin]
    head = generic(family)
    last = len(requests) - 1
    for index, request in enumerate(requests):
        flags = request.flags | NLM_F_REQUEST | (NLM_F_ACK if index == last else 0)
        length = HEADER.size + len(head) + len(request.body)
        parts += (
            HEADER.pack(length, SUBSYSTEM << 8 | request.kind, flags, sequence + 1 + index, 0),
            head,
            request.body,
        )
    parts += (HEADER.pack(HEADER.size + len(begin), BATCH_END, NLM_F_REQUEST, sequence + len(requests) + 1, 0), begin)
    return b"".join(parts)


def encode_edits(edits: Iterable[nft.Edit], table: str, family: int) -> list[Request]:
    """The messages that make these edits, in their order."""
    requests: list[Request] = []
    for edit in edits:
        requests.extend(_encode_edit(edit, table, family))
    return requests


def _encode_edit(edit: nft.Edit, table: str, family: int) -> Iterator[Request]:
    name = text(1, table)  # attribute 1 names the table in all messages
    match edit:
        case nft.AddTable():
            yield Request(NEWTABLE, NLM_F_CREATE, name + number(2, 0), edit)
        case nft.DeleteTable():
            yield Request(DELTABLE, 0, name, edit)
        case nft.AddSet(spec):
            yield Request(NEWSET, NLM_F_CREATE, name + _encode_set(spec), edit)
        case nft.DeleteSet(set_name):
            yield Request(DELSET, 0, name + text(2, set_name), edit)
        case nft.AddChain(chain, hook):
            yield Request(NEWCHAIN, NLM_F_CREATE, name + text(3, chain) + _encode_hook(hook), edit)
        case nft.DeleteChain(chain):
            yield Request(DELCHAIN, 0, name + text(3, chain), edit)
        case nft.FlushRules(chain):
            yield Request(DELRULE, 0, name + (text(2, chain) if chain else b""), edit)
        case nft.AddRule(chain, rule):
            program = b"".join(nested(1, _encode_expression(e, family)) for e in rule.expressions)
            yield Request(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, name + text(2, chain) + nested(4, program), edit)
        case nft.AddElements(spec, elements):
            for part in _encode_elements(spec, elements):
                yield Request(NEWSETELEM, NLM_F_CREATE, name + text(2, spec.name) + nested(3, part), edit)
        case nft.DeleteElements(spec, keys):
            for part in _encode_elements(spec, [(key, b"") for key in keys], with_data=False):
                yield Request(DELSETELEM, 0, name + text(2, spec.name) + nested(3, part), edit)


def _encode_set(spec: nft.SetSpec) -> bytes:
    flags = {"interval": spec.interval, "map": spec.is_map, "timeout": spec.dynamic, "eval": spec.dynamic}
    flags["concat"] = spec.interval and len(spec.key) > 1
    value = sum(_SET_CONSTANTS[word] for word, on in flags.items() if on)
    parts = [text(2, spec.name), number(3, value), number(4, _type(spec.key)), number(5, nft.width(spec.key))]
    if spec.verdicts:
        parts += [number(6, _VERDICT_TYPE), number(7, 16)]
    elif spec.data:
        parts += [number(6, _type(spec.data)), number(7, nft.width(spec.data))]
    description = number(1, spec.size) if spec.size else b""
    if flags["concat"]:
        description += nested(2, *(nested(1, number(1, field.length)) for field in spec.key))
    parts += [nested(9, description)] if description else []
    parts += [number(10, 1), attribute(13, _byte_orders(spec))]
    return b"".join(parts)


def _type(fields: Sequence[nft.FieldType]) -> int:
    """nft's number for a type: those of a concatenation take 6 bits each."""
    value = 0
    for field in fields:
        value = value << 6 | field.number
    return value


def _byte_orders(spec: nft.SetSpec) -> bytes:
    """What nft reads beside the set, to print numbers the right way round: 1 host, 2 network (libnftnl udata.h)."""
    out = b""
    for kind, fields in ((0, spec.key), (1, spec.data)):
        if len(fields) == 1:
            out += bytes((kind, 4)) + struct.pack("=I", 1 if fields[0].host_endian else 2)
    return out


def _encode_hook(hook: nft.Hook | None) -> bytes:
    if hook is None:
        return b""
    place = nested(4, number(1, _HOOKS[hook.hook]), number(2, hook.priority))
    return place + number(5, 1) + text(7, hook.kind)  # policy accept


def _encode_elements(
    spec: nft.SetSpec, elements: Sequence[tuple[bytes, bytes]], *, with_data: bool = True
) -> Iterator[bytes]:
    """The content of NFTA_SET_ELEM_LIST_ELEMENTS, in as many parts as its 16-bit length needs."""
    if spec.verdicts or spec.interval:
        encoded = [_encode_odd(spec, key, data if with_data else b"") for key, data in elements]
    elif spec.data and with_data:
        encoded = list(_encode_fast(spec, elements))
    else:
        before, after = _frame(nft.width(spec.key), 0)
        encoded = [before + key + after for key, _ in elements]
    if not encoded:
        return
    step = max(1, _MAX_LIST_BYTES // max(map(len, encoded))) if spec.verdicts else _MAX_LIST_BYTES // len(encoded[0])
    for start in range(0, len(encoded), step):
        yield b"".join(encoded[start : start + step])


def _encode_fast(spec: nft.SetSpec, elements: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Elements of one set have one length, so all but key and value is made once."""
    length = nft.width(spec.data)
    before, between = _frame(nft.width(spec.key), length)
    after = b"\0" * (-length % 4)
    for key, data in elements:
        yield b"".join((before, key, between, data, after))


def _frame(key_bytes: int, data_bytes: int) -> tuple[bytes, bytes]:
    """What stands before an element's key, and between key and value (or after the key where there is no value)."""
    key = nested(1, attribute(1, b"k" * key_bytes))
    data = nested(2, attribute(1, b"d" * data_bytes)) if data_bytes else b""
    element = nested(1, key + data)
    return element[:12], element[12 + key_bytes : len(element) - (nft.padded(data_bytes))]


def _encode_odd(spec: nft.SetSpec, key: bytes, data: bytes) -> bytes:
    """An element of a map of verdicts, or of a set of ranges (its key is first and last key in one)."""
    if spec.interval:
        half = len(key) // 2
        return nested(1, nested(1, attribute(1, key[:half])), nested(10, attribute(1, key[half:])))
    before, after = _verdict_frame(len(key), data)
    return before + key + after


@lru_cache(maxsize=4096)
def _verdict_frame(key_bytes: int, chain: bytes) -> tuple[bytes, bytes]:
    """What stands before and after a key that leads to ``chain`` (empty: the key alone). Most lead to the same few."""
    verdict = nested(2, nested(2, number(1, _VERDICTS["goto"]), attribute(2, chain + b"\0"))) if chain else b""
    element = nested(1, nested(1, attribute(1, b"k" * key_bytes)), verdict)
    return element[:12], element[12 + key_bytes :]


def _encode_expression(expression: nft.Expression, family: int) -> bytes:
    name, parts = _describe(expression, family)
    return text(1, name) + nested(2, *parts)


def _register(kind: int, register: int) -> bytes:
    return number(kind, 0 if register == nft.VERDICT else 8 + register)  # NFT_REG32_00 is 8


def _describe(expression: nft.Expression, family: int) -> tuple[str, tuple[bytes, ...]]:  # noqa: PLR0912
    """An expression's name and attributes; one case each, so longer than functions are elsewhere."""
    match expression:
        case nft.Payload(register, header, offset, length):
            return "payload", (_register(1, register), number(2, header), number(3, offset), number(4, length))
        case nft.Meta(register, key):
            return "meta", (_register(1, register), number(2, _META[key]))
        case nft.SetMark(register):
            return "meta", (number(2, _META["mark"]), _register(3, register))
        case nft.Conntrack(register, key):
            return "ct", (_register(1, register), number(2, _CONNTRACK[key]))
        case nft.Fib(register, source):
            return "fib", (_register(1, register), number(2, 3), number(3, 1 if source else 2))
        case nft.Bitwise(register, mask, xor):
            values = (nested(4, attribute(1, mask)), nested(5, attribute(1, xor)))
            return "bitwise", (_register(1, register), _register(2, register), number(3, len(mask)), *values)
        case nft.Compare(register, equal, value):
            return "cmp", (_register(1, register), number(2, 0 if equal else 1), nested(3, attribute(1, value)))
        case nft.Load(register, value):
            return "immediate", (_register(1, register), nested(2, attribute(1, value)))
        case nft.Lookup(key, set_name, to, invert):
            where = () if to is None else (_register(3, to),)
            flags = (number(5, 1),) if invert else ()
            return "lookup", (text(1, set_name), _register(2, key), *where, *flags)
        case nft.Random(register, modulus, offset):
            return "numgen", (_register(1, register), number(2, modulus), number(3, 1), number(4, offset))
        case nft.Remember(verb, set_name, key, data, timeout_s):
            parts = [text(1, set_name), number(3, _DYNSET[verb]), _register(4, key)]
            parts += [] if data is None else [_register(5, data)]
            parts += [attribute(6, struct.pack("!Q", timeout_s * 1000))] if timeout_s else []
            return "dynset", tuple(parts)
        case nft.DestinationNat(address, port):
            place = (_register(3, address), _register(4, address), _register(5, port), _register(6, port))
            return "nat", (number(1, 1), number(2, FAMILIES[family]), *place)
        case nft.Masquerade():
            return "masq", (number(1, _RANDOM_FULLY),)
        case nft.Reject():
            code = 3 if family == 4 else 4  # ICMP_PORT_UNREACH, ICMPV6_PORT_UNREACH
            return "reject", (number(1, 0), attribute(2, bytes((code,))))
        case nft.Verdict(word, chain):
            target = (text(2, chain),) if chain else ()
            return "immediate", (number(1, 0), nested(2, nested(2, number(1, _VERDICTS[word]), *target)))
