"""The texts of rules that came up in a trace, as the tool prints them that people use for them.

nft's rules have handles, which nft prints. Of iptables over nf_tables the kernel reports nf_tables' handle, and
`iptables -S` prints no handles: the n-th rule of the chain is its n-th line. Legacy iptables reports the number itself.
Only the chains that came up are listed: a node with 10,000 Services has as many chains.
"""

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from netsim.kernel.nft import Nft
from netsim.kernel.process import ProcessSpec, Spawner
from netsim.model.errors import NetsimError
from netsim.observe.evidence import RuleEvent, RuleKey
from netsim.observe.posts import Post

_THREADS = 8
_TIMEOUT_S = 10.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TOOLS = {
    ("iptables-nft", "ip"): "iptables-nft",
    ("iptables-nft", "ip6"): "ip6tables-nft",
    ("iptables-legacy", "ip"): "iptables-legacy",
    ("iptables-legacy", "ip6"): "ip6tables-legacy",
}
_CHAIN_HEAD = re.compile(r'^(?:comment "[^"]*" )?type [^;]*; policy \w+; ')
_MARK = "# netsim-trace chain"

Chain = tuple[str, str, str]  # family, table, chain


def read_texts(
    posts: Sequence[Post], events: Iterable[RuleEvent], spawner: Spawner | None
) -> tuple[dict[RuleKey, str], list[str]]:
    """The text of each rule in ``events``; and notes about those that could not be read.

    Without ``spawner`` no tool can be run: rules of iptables over nf_tables are then in nft's words. Raises nothing of
    netsim's.
    """
    rules = [event for event in events if event.handle]
    jobs: dict[tuple[str, str], set[Chain]] = {}
    for event in rules:
        jobs.setdefault((event.place, event.backend), set()).add((event.family, event.table, event.chain))
    by_place = {post.place: post for post in posts}
    texts: dict[RuleKey, str] = {}
    notes: list[str] = []
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="trace-rules") as pool:
        running = {
            job: pool.submit(_read_chains, by_place[job[0]], job[1], sorted(chains), spawner)
            for job, chains in jobs.items()
        }
        for (place, backend), future in running.items():
            try:
                texts.update(future.result())
            except NetsimError as error:
                notes.append(f"texts of {backend}'s rules on {place}: {error.message}")
    wanted = {(rule.place, rule.family, rule.table, rule.chain, rule.handle) for rule in rules}
    return {key: text for key, text in texts.items() if key in wanted}, notes


def _read_chains(post: Post, backend: str, chains: Sequence[Chain], spawner: Spawner | None) -> dict[RuleKey, str]:
    if backend == "nft" or (spawner is None and backend == "iptables-nft"):
        return _read_nft(post, chains)
    if spawner is None:
        raise NetsimError("the rules of legacy iptables are readable by its own tool only, and none can be run")
    texts: dict[RuleKey, str] = {}
    for family in {chain[0] for chain in chains}:
        mine = [chain for chain in chains if chain[0] == family]
        lines = _list_iptables(post, _TOOLS[backend, family], mine, spawner)
        for chain, rules in zip(mine, lines, strict=True):
            handles: Iterable[int] = range(1, len(rules) + 1)
            if backend == "iptables-nft" and post.trace is not None:
                handles = [handle for handle, _ in post.trace.rules(*chain)]
            texts.update({(post.place, *chain, handle): rule for handle, rule in zip(handles, rules, strict=False)})
    return texts


def _read_nft(post: Post, chains: Sequence[Chain]) -> dict[RuleKey, str]:
    texts: dict[RuleKey, str] = {}
    with Nft(post.ns) as nft:
        for chain in chains:
            listed = parse_nft_chain(nft.list_chain(*chain))
            texts.update({(post.place, *chain, handle): rule for handle, rule in listed.items()})
    return texts


def parse_nft_chain(text: str) -> dict[int, str]:
    """The rules in what ``nft -a list chain`` prints, by handle. An element list may run over several lines."""
    rules: dict[int, str] = {}
    pending: list[str] = []
    for line in text.splitlines():
        words, found, handle = line.strip().rpartition(" # handle ")
        if not found:
            pending.append(line.strip())
            continue
        start = " ".join([*pending, words]).strip()
        pending.clear()
        if words.endswith("{") and words.startswith(("table ", "chain ")):
            continue
        rules[int(handle)] = _after_chain_head(start)
    return rules


def _after_chain_head(text: str) -> str:
    """Without "type filter hook output priority filter; policy accept;", which stands before a first rule, and before
    which the chain's own comment stands.
    """
    return _CHAIN_HEAD.sub("", text)


def _list_iptables(post: Post, tool: str, chains: Sequence[Chain], spawner: Spawner) -> list[list[str]]:
    """The rules of each chain as ``iptables -S`` prints them, by one shell: a process of Python's takes longer."""
    script = "".join(f"echo '{_MARK}'; {tool} -w -t '{table}' -S '{chain}'\n" for _, table, chain in chains)
    path = f"{os.environ.get('PATH', '')}:{_PATH}"
    spec = ProcessSpec(("/bin/sh", "-c", script), env={"PATH": path}, netns=post.ns)
    done = spawner.run_blocking(spec, timeout_s=_TIMEOUT_S)
    parts = done.stdout.decode(errors="replace").split(_MARK + "\n")[1:]
    if done.returncode and not any(parts):
        raise NetsimError(f"{tool}: {done.stderr.decode(errors='replace').strip()}", where=post.place)
    return [[line for line in part.splitlines() if line.startswith("-A ")] for part in parts]
