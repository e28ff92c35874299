"""Route lookups as a verdict asks them: what refuses a packet is an answer, too. Pure but for the Reader."""

import errno
import re

from netsim.model.errors import KernelError
from netsim.observe.case import Case
from netsim.observe.path import Packet

DEV = re.compile(r"\bdev (\S+)")  # in a route's words
REVERSE_PATH = "reverse path"
MARTIAN = "martian source"
# What a lookup that meets a route of these types fails with (fib_props, net/ipv4/fib_semantics.c); EXDEV: rp_filter,
# EINVAL: a source address that is the receiver's own (fib_validate_source, fib_frontend.c).
REFUSALS = {
    errno.EHOSTUNREACH: "unreachable",
    errno.EACCES: "prohibit",
    errno.EXDEV: REVERSE_PATH,
    errno.EINVAL: MARTIAN,
}


def ask_route(case: Case, place: str, source: str, destination: str, interface_in: str = "") -> str:
    """`Reader.route`, where refusals are routes, too: what refuses may be in a table of policy routing."""
    try:
        return case.reader.route(place, source, destination, interface_in=interface_in)
    except KernelError as error:
        if error.errno == errno.ENETUNREACH:
            return ""
        if error.errno in REFUSALS:
            word = REFUSALS[error.errno]
            return word if word in (REVERSE_PATH, MARTIAN) else f"{word} {destination}"
        raise


def header_of(packet: Packet) -> Packet:
    """The header that the place it is in goes by: the tunnel's where there is one."""
    return packet.outer if packet.outer is not None else packet
