"""Every rule of one namespace, read from the kernel: nf_tables, both iptables, ipsets and IPVS. Blocking."""

import os
from collections.abc import Iterable

from netsim.kernel.iptables import Backend, Iptables
from netsim.kernel.ipvs import Ipvs
from netsim.kernel.netns import Netns
from netsim.kernel.nft import Nft
from netsim.kernel.nft_trace import TABLE_PREFIX
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.kernel.procnet import read_proc_net
from netsim.model.errors import KernelError, NetsimError
from netsim.observe.iptables_save import SavedTables, parse_counted_save
from netsim.observe.nft_listing import NftTables, TableKey, parse_listing
from netsim.observe.rules.model import Rules, Virtual
from netsim.ruleset.iptables import BUILTIN_CHAINS
from netsim.ruleset.ipvs import ServerKey

_FAMILIES = {"ip": 4, "ip6": 6}
_LEGACY_NAMES = {"ip": "ip_tables_names", "ip6": "ip6_tables_names"}
_TIMEOUT_S = 30.0


def read_rules(ns: Netns, spawner: Spawner) -> Rules:
    """All rules of ``ns``. A part that can't be read is a note, since the others say something all the same."""
    notes: list[str] = []
    try:
        with Nft(ns) as nft:  # one for all: closing its socket waits for an RCU grace period
            # What a trace has set up for its time is no rule of the network.
            names = [key for key in nft.list_tables() if not key[1].startswith(TABLE_PREFIX)]
            saved = _read_iptables(ns, spawner, names, notes)
            # Those of iptables-nft are left out: nft can't show their rules, and says so on standard error for each.
            own = [(family, name) for family, name in names if name not in saved.get(("iptables-nft", family), ())]
            tables = _read_nft(nft, own, notes)
    except NetsimError as error:
        notes.append(f"nftables: {error.message}")
        saved, tables = _read_iptables(ns, spawner, (), notes), {}
    ipsets: dict[str, tuple[str, ...]] = {}
    chains = (chain for part in saved.values() for table in part.values() for chain in table.values())
    if any("--match-set" in rule.text for chain in chains for rule in chain.rules):
        ipsets = _read_ipsets(ns, spawner, notes)
    return Rules(tables, saved, ipsets, _read_ipvs(ns, notes), tuple(notes))


def _read_nft(nft: Nft, names: Iterable[TableKey], notes: list[str]) -> NftTables:
    found: NftTables = {}
    for family, name in names:
        try:
            found |= parse_listing(*nft.list_table(family, name))
        except NetsimError as error:
            notes.append(f"nftables: {family} {name}: {error.message}")
    return found


def _read_iptables(
    ns: Netns, spawner: Spawner, names: Iterable[TableKey], notes: list[str]
) -> dict[tuple[str, str], SavedTables]:
    """Both back ends, each where it has tables."""
    found: dict[tuple[str, str], SavedTables] = {}
    for family, number in _FAMILIES.items():
        candidates = {name for f, name in names if f == family and name in BUILTIN_CHAINS}
        if candidates and (saved := _save(ns, spawner, "nft", number, notes)):
            found["iptables-nft", family] = {name: chains for name, chains in saved.items() if name in candidates}
        if read_proc_net(ns, _LEGACY_NAMES[family]) and (saved := _save(ns, spawner, "legacy", number, notes)):
            found["iptables-legacy", family] = saved
    return found


def _save(ns: Netns, spawner: Spawner, backend: Backend, family: int, notes: list[str]) -> SavedTables:
    tool = Iptables(ns, spawner, backend=backend)
    try:
        return parse_counted_save(tool.save(family=family, counters=True))
    except NetsimError as error:
        notes.append(error.message)
        return {}
    finally:
        tool.close()


def _read_ipsets(ns: Netns, spawner: Spawner, notes: list[str]) -> dict[str, tuple[str, ...]]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    try:
        done = spawner.run_blocking(ProcessSpec(("ipset", "save"), env={"PATH": path}, netns=ns), timeout_s=_TIMEOUT_S)
    except KernelError as error:
        notes.append(f"ipset: {error.message}")
        return {}
    if done.returncode:
        notes.append(f"ipset: {done.stderr.decode(errors='replace').strip()}")
    return parse_ipsets(done.stdout.decode(errors="replace"))


def parse_ipsets(text: str) -> dict[str, tuple[str, ...]]:
    """The elements of each set, from what ``ipset save`` prints."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        verb, _, rest = line.partition(" ")
        name, _, element = rest.partition(" ")
        if verb == "create":
            found.setdefault(name, [])
        elif verb == "add":
            found.setdefault(name, []).append(element.partition(" ")[0])
    return {name: tuple(elements) for name, elements in found.items()}


def _read_ipvs(ns: Netns, notes: list[str]) -> dict[ServerKey, Virtual]:
    if read_proc_net(ns, "ip_vs") is None:
        return {}  # not there; asking by netlink would load the module
    try:
        with Ipvs(ns) as ipvs:
            return {key: Virtual(server, ipvs.reals(key)) for key, server in ipvs.servers().items()}
    except NetsimError as error:
        notes.append(f"ipvs: {error.message}")
        return {}
