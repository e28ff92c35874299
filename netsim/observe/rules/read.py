"""Every rule of one namespace, read from the kernel: nf_tables, both iptables, ipsets and IPVS. Blocking."""

import os

from netsim.kernel.iptables import Backend, Iptables
from netsim.kernel.ipvs import Ipvs
from netsim.kernel.netns import Netns
from netsim.kernel.nft import Nft
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.model.errors import KernelError, NetsimError
from netsim.observe.iptables_save import SavedTables, parse_counted_save
from netsim.observe.nft_listing import NftTables, parse_listing
from netsim.observe.rules.model import Rules, Virtual
from netsim.ruleset.iptables import BUILTIN_CHAINS
from netsim.ruleset.ipvs import ServerKey

_FAMILIES = {"ip": 4, "ip6": 6}
_LEGACY_NAMES = {"ip": "ip_tables_names", "ip6": "ip6_tables_names"}
_TIMEOUT_S = 30.0


def read_rules(ns: Netns, spawner: Spawner) -> Rules:
    """All rules of ``ns``. A part that can't be read is a note, since the others say something all the same."""
    notes: list[str] = []
    tables = _read_nft(ns, notes)
    saved = _read_iptables(ns, spawner, tables, notes)
    ipsets: dict[str, tuple[str, ...]] = {}
    if any(
        "--match-set" in rule.text for t in saved.values() for c in t.values() for x in c.values() for rule in x.rules
    ):
        ipsets = _read_ipsets(ns, spawner, notes)
    return Rules(tables, saved, ipsets, _read_ipvs(ns, notes), tuple(notes))


def _read_nft(ns: Netns, notes: list[str]) -> NftTables:
    try:
        with Nft(ns) as nft:
            return parse_listing(nft.run_json("list ruleset"), nft.run_with_handles("list ruleset"))
    except NetsimError as error:
        notes.append(f"nftables: {error.message}")
        return {}


def _read_iptables(
    ns: Netns, spawner: Spawner, tables: NftTables, notes: list[str]
) -> dict[tuple[str, str], SavedTables]:
    """Both back ends, where they have tables. Those of iptables-nft go from ``tables``: nft can't show their rules."""
    found: dict[tuple[str, str], SavedTables] = {}
    for family, number in _FAMILIES.items():
        candidates = {name for f, name in tables if f == family and name in BUILTIN_CHAINS}
        if candidates and (saved := _save(ns, spawner, "nft", number, notes)):
            found["iptables-nft", family] = {name: chains for name, chains in saved.items() if name in candidates}
            for name in candidates & saved.keys():
                del tables[family, name]
        if _read_proc(ns, _LEGACY_NAMES[family]) and (saved := _save(ns, spawner, "legacy", number, notes)):
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
    if _read_proc(ns, "ip_vs") is None:
        return {}  # not there; asking by netlink would load the module
    try:
        with Ipvs(ns) as ipvs:
            return {key: Virtual(server, ipvs.reals(key)) for key, server in ipvs.servers().items()}
    except NetsimError as error:
        notes.append(f"ipvs: {error.message}")
        return {}


def _read_proc(ns: Netns, name: str) -> str | None:
    """A file of /proc/net as ``ns`` has it; None where there is none."""
    with ns.entered():
        try:
            with open(f"/proc/thread-self/net/{name}") as file:
                return file.read()
        except OSError:
            return None
