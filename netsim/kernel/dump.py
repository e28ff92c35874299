"""A namespace as text, for people when a test has failed: links, routes, neighbours, rules with counters,
flows.

Shown by the tools whose output people know, where they are installed; a part that can't be had says why and
the rest is still shown, since a dump is asked for when something is wrong already.
"""

import asyncio
import os
from collections.abc import Callable, Collection

from netsim.kernel.conntrack import Conntrack
from netsim.kernel.netns import Netns, run_in
from netsim.kernel.nft import Nft
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.model.errors import NetsimError

_TIMEOUT_S = 10.0
_MAX_FLOWS = 1000
_COMMANDS = (
    ("links", ("ip", "-s", "-d", "link", "show")),
    ("addresses", ("ip", "-br", "address", "show")),
    ("routes", ("ip", "route", "show", "table", "all")),
    ("IPv6 routes", ("ip", "-6", "route", "show", "table", "all")),
    ("policy rules", ("ip", "rule", "show")),
    ("neighbours", ("ip", "neighbour", "show")),
    ("forwarding database", ("bridge", "fdb", "show")),
    ("iptables (legacy)", ("iptables-legacy-save", "-c")),
    ("ip6tables (legacy)", ("ip6tables-legacy-save", "-c")),
    ("iptables", ("iptables-nft-save", "-c")),
    ("ip6tables", ("ip6tables-nft-save", "-c")),
    ("ipsets", ("ipset", "save")),
)
_SAVED = (("iptables", "ip"), ("ip6tables", "ip6"))  # of these, the parts that list tables of nf_tables


async def dump_namespace(ns: Netns, spawner: Spawner) -> str:
    """Everything that decides what happens to a packet in ``ns``. Empty parts are left out. Raises nothing
    of netsim's.
    """
    commands = [_run(ns, spawner, title, argv) for title, argv in _COMMANDS]
    parts = await asyncio.gather(*commands, _own("connection tracking", ns, _list_flows))
    shown = {
        (family, line[1:]) for title, family in _SAVED for line in dict(parts)[title].splitlines() if line[:1] == "*"
    }
    parts.insert(len(_COMMANDS), await _own("nftables", ns, lambda ns: _list_tables(ns, shown)))
    return "\n".join(f"--- {title}\n{text}" for title, text in parts if text) + "\n"


async def _run(ns: Netns, spawner: Spawner, title: str, argv: tuple[str, ...]) -> tuple[str, str]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    spec = ProcessSpec(argv, env={"PATH": path}, netns=ns)
    try:
        done = await spawner.run(spec, timeout_s=_TIMEOUT_S)
    except NetsimError as error:
        return title, f"not shown: {error.message}"
    text = done.stdout if done.returncode == 0 else b"not shown: " + done.stderr
    return title, text.decode(errors="replace").rstrip()


async def _own(title: str, ns: Netns, read: Callable[[Netns], str]) -> tuple[str, str]:
    try:
        return title, await run_in(ns, read, ns)
    except NetsimError as error:
        return title, f"not shown: {error.message}"


def _list_tables(ns: Netns, shown: Collection[tuple[str, str]]) -> str:
    """Without those of iptables-nft, which are shown already: nft can't show extensions of theirs, and libnftables
    says so on the process' standard error for each.
    """
    with Nft(ns) as nft:
        tables = [key for key in nft.list_tables() if key not in shown]
        texts = [nft.run(f"list table {family} {name}") for family, name in tables]
    return "".join(texts).rstrip()


def _list_flows(ns: Netns) -> str:
    with Conntrack(ns) as conntrack:
        flows = conntrack.flows()
    lines = [str(flow) for flow in flows[:_MAX_FLOWS]]
    if len(flows) > _MAX_FLOWS:
        lines.append(f"... and {len(flows) - _MAX_FLOWS} more")
    return "\n".join(lines)
