"""Packets that are not taken in for where they say that they come from. Pure but for the Reader."""

from netsim.observe.case import Case
from netsim.observe.lookup import DEV, MARTIAN, ask_route, header_of
from netsim.observe.path import Verdict, look_at


def blame_martian(case: Case, place: str, came_by: str) -> Verdict | None:
    """IPv4 takes nothing in that has an address of the receiver itself as its source (RFC 1812, 5.3.7)."""
    header = header_of(case.end.packet)
    if ":" in header.source or header.source not in case.reader.addresses(place):
        return None
    if ask_route(case, place, header.source, header.destination, came_by) != MARTIAN:
        return None  # it is allowed to: accept_local
    cause = f"martian source: {header.source} is an address of its own, and the packet came in by {came_by}"
    return Verdict("dropped", place, cause, look_at(place, "ip -br address"))


def blame_reverse_path(case: Case, place: str, came_by: str) -> Verdict | None:
    """Strict reverse path filtering, from the settings (RFC 3704): the larger of all and the interface's counts."""
    header = header_of(case.end.packet)
    if ":" in header.source:
        return None
    values = {name: case.reader.setting(place, f"net/ipv4/conf/{name}/rp_filter") for name in ("all", came_by)}
    mode = max((int(value) for value in values.values() if value.isdigit()), default=0)
    if mode == 0:
        return None
    back = ask_route(case, place, "", header.source)
    device = DEV.search(back)
    wrong = device is None if mode == 2 else device is None or device[1] != came_by
    if not wrong:
        return None
    leads = f"by {device[1]}" if device else "nowhere"
    cause = f"reverse path filter: it came by {came_by}, and the route back to {header.source} leads {leads}"
    return Verdict("dropped", place, cause, look_at(place, f"sysctl net.ipv4.conf.{came_by}.rp_filter"))
