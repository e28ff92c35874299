"""iptables in a namespace: `iptables-restore` and `iptables-save`, run by the spawner.

There is no library: the tool's own binary is the only stable interface of the iptables rule language (netfilter FAQ). A
rule set is given whole, so that a change is one process and one commit.
"""

import asyncio
import errno
import logging
import os
import re
import weakref
from collections.abc import Sequence
from contextlib import closing
from typing import Literal

from netsim.kernel.netns import Netns
from netsim.kernel.nft_socket import NftSocket
from netsim.kernel.process import Completed, ProcessSpec, Spawner
from netsim.kernel.procnet import read_proc_net
from netsim.model.errors import FeatureMissing, KernelError

Backend = Literal["nft", "legacy"]

log = logging.getLogger(__name__)

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT_S = 60.0
_TOOLS = {4: "iptables", 6: "ip6tables"}
_LEGACY_TABLES = {4: "ip_tables_names", 6: "ip6_tables_names"}  # in /proc/net: those that there are
_PREFIX = re.compile(r"^(?:ip6?tables(?:-nft|-legacy)?-(?:restore|save)(?: v[\d.]+ \([a-z_]+\))?: *)+")
_ADVICE = re.compile(r" ?(?:Error occurred at line: \d+ )?Try `[^']*' or '[^']*' for more information\.")
_QUOTED = re.compile(r"[`']([^' ]+)'")
_LINE = re.compile(r"line:? (\d+)")
_HINT = re.compile(r"^:KUBE-(?:IPTABLES-HINT|KUBELET-CANARY) ", re.M)
_BACKENDS: tuple[Backend, ...] = ("nft", "legacy")
# What works for one namespace works for all of a sandbox; asking costs a process.
_chosen: "weakref.WeakKeyDictionary[Spawner, Backend]" = weakref.WeakKeyDictionary()


class Iptables:
    """iptables of one namespace. Blocking calls are for worker threads; the async ones for the event loop.

    ``backend`` is which of the two iptables is used: ``nft`` (rules live in nf_tables) or ``legacy``. Rules of the two
    do not see each other, so it is chosen once, by asking the first namespace: `choose_backend`.
    """

    def __init__(self, ns: Netns, spawner: Spawner, *, backend: Backend | None = None) -> None:
        self.ns = ns
        self._spawner = spawner
        self._backend = backend
        self._lock = -1

    @property
    def backend(self) -> Backend:
        """``nft`` or ``legacy``. Raises FeatureMissing where neither works."""
        if self._backend is None:
            self._backend = choose_backend(self._spawner, self.ns)
        return self._backend

    def restore(self, text: bytes, *, family: int = 4) -> None:
        """Apply ``text`` (iptables-save's format) in one commit; chains it does not name stay as they are.

        Raises KernelError with the tool's words and the line it refused; nothing has changed then.
        """
        spec = self._spec(("restore", "--noflush", "--counters", "-w"), family)
        self._check_restore(self._spawner.run_blocking(spec, input=text, timeout_s=_limit_s(text)), text, spec)

    async def restore_async(self, text: bytes, *, family: int = 4) -> None:
        """As `restore`, awaited."""
        await self._choose()
        spec = self._spec(("restore", "--noflush", "--counters", "-w"), family)
        self._check_restore(await self._spawner.run(spec, input=text, timeout_s=_limit_s(text)), text, spec)

    def save(self, table: str = "", *, family: int = 4, counters: bool = False) -> str:
        """The rules of one table or of all, as iptables-save prints them. Raises KernelError."""
        if not table and self._is_untouched(family):
            return ""
        spec = self._save_spec(table, family, counters)
        return self._check_save(self._spawner.run_blocking(spec, timeout_s=_TIMEOUT_S), spec)

    async def save_async(self, table: str = "", *, family: int = 4, counters: bool = False) -> str:
        """As `save`, awaited."""
        await self._choose()
        if not table and self._is_untouched(family):
            return ""
        spec = self._save_spec(table, family, counters)
        return self._check_save(await self._spawner.run(spec, timeout_s=_TIMEOUT_S), spec)

    def close(self) -> None:
        """Let go of the lock's descriptor; may be repeated."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _is_untouched(self, family: int) -> bool:
        """Whether the kernel has no table of the family there: the tool would print nothing, and need not be run at the
        first look at each of a hundred fresh nodes.
        """
        if self.backend == "legacy":
            return read_proc_net(self.ns, _LEGACY_TABLES[family]) == ""
        with closing(NftSocket(self.ns)) as tables:
            return not tables.has_tables(family)

    async def _choose(self) -> None:
        if self._backend is None:
            self._backend = await asyncio.to_thread(choose_backend, self._spawner, self.ns)

    def _save_spec(self, table: str, family: int, counters: bool) -> ProcessSpec:
        arguments = ["save", *(("-c",) if counters else ()), *(("-t", table) if table else ())]
        return self._spec(arguments, family)

    def _spec(self, arguments: Sequence[str], family: int) -> ProcessSpec:
        verb, *options = arguments
        program = f"{_TOOLS[family]}-{self.backend}-{verb}"
        return ProcessSpec((program, *options), env=_environment(self._lock_file()), netns=self.ns)

    def _lock_file(self) -> str:
        """The legacy tools' lock (-w), one for each namespace so that nodes do not wait for each other.

        A file in memory, reached through our /proc entry: nothing is left in /run, and no name has to be agreed on. But
        in the namespace that this process was started in others write tables too: there it is the lock that they take.
        """
        if self.backend != "legacy":
            return ""
        if self.ns.inode == os.stat("/proc/self/ns/net").st_ino:
            return os.environ.get("XTABLES_LOCKFILE", "")
        if self._lock < 0:
            self._lock = os.memfd_create("xtables.lock", os.MFD_CLOEXEC)
        return f"/proc/{os.getpid()}/fd/{self._lock}"

    def _check_restore(self, done: Completed, text: bytes, spec: ProcessSpec) -> None:
        if done.returncode:
            raise _error(done, spec, _offending_line(done.stderr.decode(errors="replace"), text))

    def _check_save(self, done: Completed, spec: ProcessSpec) -> str:
        if done.returncode:
            raise _error(done, spec, "")
        return done.stdout.decode(errors="replace")


def _limit_s(text: bytes) -> float:
    """How long a restore may take. The nft back end's time grows with the square of the rules: 40 s for 9 MB, 160 s for
    twice that, and what works in the end must not be given up.
    """
    return _TIMEOUT_S * (1 + len(text) / 1e6)


def choose_backend(spawner: Spawner, ns: Netns) -> Backend:
    """The iptables that ``ns`` uses: the one that its rules are in, by `prefer_legacy`; where it has none, nft, which
    is every current distribution's default, or legacy if that alone works.

    Raises FeatureMissing saying why neither does.
    """
    known = _chosen.get(spawner)
    if known is not None:
        return known
    reasons: list[str] = []
    saved: dict[Backend, str] = {}
    # The legacy tables that there are; only where there are any it is a question which of the two is in use.
    in_question = any(read_proc_net(ns, name) for name in _LEGACY_TABLES.values())
    for backend in _BACKENDS:
        text = _try_save(spawner, ns, (f"iptables-{backend}-save", *(() if in_question else ("-t", "filter"))), reasons)
        if text is not None:
            saved[backend] = text
            if not in_question:
                break
            saved[backend] += _try_save(spawner, ns, (f"ip6tables-{backend}-save",), reasons) or ""
    if not saved:
        raise FeatureMissing(
            "iptables", "; ".join(reasons), where=ns.name, hint="install the package iptables; `netsim check` says more"
        )
    legacy = "nft" not in saved or ("legacy" in saved and prefer_legacy(saved["nft"], saved["legacy"]))
    chosen: Backend = "legacy" if legacy else "nft"
    log.info("%s: iptables-%s is used", ns.name, chosen)
    _chosen[spawner] = chosen
    return chosen


def prefer_legacy(nft: str, legacy: str) -> bool:
    """Whether a node whose tables are these, as both iptables-save print them, uses the legacy ones.

    By the chain that a kubelet makes for this very question, else by which has more rules: as the wrapper decides that
    kube-proxy's images have (kubernetes-sigs/iptables-wrappers, iptables-wrapper-installer.sh).
    """
    if _HINT.search(nft):
        return False
    return bool(_HINT.search(legacy)) or legacy.count("\n-A ") > nft.count("\n-A ")


def _try_save(spawner: Spawner, ns: Netns, argv: tuple[str, ...], reasons: list[str]) -> str | None:
    """What it prints; None, with a reason more, where it does not work."""
    program, spec = argv[0], ProcessSpec(argv, env=_environment(""), netns=ns)
    try:
        done = spawner.run_blocking(spec, timeout_s=_TIMEOUT_S)
    except KernelError as error:
        reasons.append(f"{program}: {'not installed' if error.errno == errno.ENOENT else error.message}")
        return None
    if done.returncode:
        reasons.append(f"{program}: {_words(done)}")
        return None
    return done.stdout.decode(errors="replace")


def _environment(lock_file: str) -> dict[str, str]:
    environment = {"PATH": os.environ.get("PATH", "") + ":" + _PATH}
    if "XTABLES_LIBDIR" in os.environ:
        environment["XTABLES_LIBDIR"] = os.environ["XTABLES_LIBDIR"]
    if lock_file:
        environment["XTABLES_LOCKFILE"] = lock_file
    return environment


def _words(done: Completed) -> str:
    text = " ".join(done.stderr.decode(errors="replace").split())
    text = _PREFIX.sub("", _ADVICE.sub("", text)).strip()
    return text or f"exit status {done.returncode}"


def _offending_line(stderr: str, text: bytes) -> str:
    """``line N: TEXT`` for the line the tool complains about; empty where it names none.

    What is only found out at COMMIT (a jump to no chain) is blamed on that line: then it is the first line with the
    word the tool quotes.
    """
    match = _LINE.search(stderr)
    lines = text.decode(errors="replace").splitlines()
    number = int(match[1]) if match else 0
    if not 0 < number <= len(lines):
        return ""
    quoted = _QUOTED.search(stderr)
    if lines[number - 1] == "COMMIT" and quoted:
        number = next((n for n, line in enumerate(lines, 1) if quoted[1] in line.split()), number)
    return f"line {number}: {lines[number - 1]}"


def _error(done: Completed, spec: ProcessSpec, line: str) -> KernelError:
    words = _words(done)
    message = f"{spec.argv[0]}: {words}" + (f"\n  {line}" if line else "")
    if "Permission denied" in words or "you must be root" in words:
        return KernelError(message, errno=errno.EPERM, where=spec.where, hint="run as root, or in a user namespace")
    return KernelError(message, errno=errno.EINVAL, where=spec.where)
