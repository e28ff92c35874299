"""Looks at what the kernel can do, in namespaces that end with this process. Run by `features.probe_features`.

Asking is doing: a device is made, a rule loaded, a file system mounted; what works is there. A kernel that has it as a
module loads it for that. Answers go to stdout as JSON: {feature: [present, detail]}.
"""

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from tempfile import TemporaryFile
from typing import IO

from netsim.kernel import libc, sandbox
from netsim.kernel import rtnl_wire as wire
from netsim.kernel.bpf import load_library
from netsim.kernel.conntrack import Conntrack
from netsim.kernel.modules import load_module
from netsim.kernel.netns import Netns
from netsim.kernel.nft import Nft
from netsim.model.errors import FeatureMissing, KernelError, NetsimError

Found = dict[str, tuple[bool, str]]

_RTM_NEWQDISC = 36
_TC = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_TC_ROOT = 0xFFFFFFFF
_VXLAN_ID, _VXLAN_PORT = 1, 15
_NETLINK_NETFILTER, _NETLINK_GENERIC = 12, 16
_SCTP = 132
_LINKS = {"veth": b"", "bridge": b"", "dummy": b"", "ifb": b"", "vxlan": wire.u32(_VXLAN_ID, 1)}
_QDISCS = ("tbf", "netem")
_COMMANDS = ("ip", "nft", "iptables-restore", "conntrack", "curl")
# What kube-proxy's rules are made of (pkg/proxy/iptables).
_IPTABLES_RULES = b"""*filter
:P - [0:0]
-A P -m comment --comment "c" -m addrtype --dst-type LOCAL -p tcp -m tcp --dport 80 -j REJECT
-A P -m conntrack --ctstate INVALID -j DROP
COMMIT
*nat
:P - [0:0]
:M - [0:0]
-A M -j MARK --or-mark 0x4000
-A P -m statistic --mode random --probability 0.50000000000 -j M
-A P -m recent --name N --rcheck --seconds 10800 --reap -j M
-A P -m recent --name N --set -m tcp -p tcp -j DNAT --to-destination 10.0.0.1:80
-A P -j MASQUERADE --random-fully
COMMIT
"""


def main() -> None:
    """Print what was found."""
    found: Found = {}
    for command in _COMMANDS:
        path = shutil.which(command)
        found[f"command:{command}"] = (path is not None, path or "not in $PATH")
    found["userns"] = _probe_userns()
    try:
        sandbox.unshare_sandbox()
    except FeatureMissing as error:
        found["netns"] = (False, error.message)
        print(json.dumps(found))
        return
    found["netns"] = (True, "")
    sys.stdout.flush()
    pid = os.fork()  # the first process of the new PID namespace: when it ends, so does all that it started
    if pid == 0:
        _probe_inside(found)
        print(json.dumps(found), flush=True)
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _probe_userns() -> tuple[bool, str]:
    pid = os.fork()
    if pid == 0:
        try:
            libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNET)
        except KernelError as error:
            os._exit(min(error.errno, 255))
        os._exit(0)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return number == 0, "" if number == 0 else os.strerror(number)


def _probe_inside(found: Found) -> None:
    found["mount"] = _try(_probe_mount)
    found["pidns"] = _try(lambda: libc.mount("proc", "/proc", "proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC))
    # Forks of tools first, so that they run while the rest is asked.
    restores = {backend: _start_iptables(backend) for backend in ("nft", "legacy")}
    _probe_rtnetlink(found)
    found["br_netfilter"] = _probe_br_netfilter()
    found["ipv6"] = _exists("/proc/sys/net/ipv6")
    found["packet"] = _try(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close())
    found["libpcap"] = _try(load_library)
    found["sctp"] = _try(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, _SCTP).close())
    found["ipset"] = _try(_probe_ipset)
    found["ipvs"] = _try(_probe_ipvs)
    with Netns.current("probe") as ns:
        found["conntrack"] = _try(lambda: _probe_conntrack(ns))
        found["nft"] = _try(lambda: _run_nft(ns, "add table inet probe"))
        rules = "add chain inet probe c; add rule inet probe c meta nftrace set 1"
        found["nft_trace"] = _try(lambda: _run_nft(ns, rules))
    found["overlay"] = _try(_probe_overlay)
    found["drop_reasons"] = _try(_probe_drop_reasons)
    for backend, process in restores.items():
        found[f"iptables-{backend}"] = _finish_iptables(process)


def _try(probe: Callable[[], object]) -> tuple[bool, str]:
    try:
        probe()
    except NetsimError as error:
        return False, error.message
    except OSError as error:
        return False, os.strerror(error.errno) if error.errno else str(error)
    return True, ""


def _exists(path: str) -> tuple[bool, str]:
    return (True, "") if os.path.exists(path) else (False, f"no {path}")


def _probe_br_netfilter() -> tuple[bool, str]:
    path = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    if not os.path.exists(path):
        load_module("br_netfilter")  # the one module that asking for the feature does not load
    return _exists(path)


def _probe_mount() -> None:
    libc.mount("", "/", flags=libc.MS_REC | libc.MS_PRIVATE)
    libc.mount("tmpfs", "/tmp", "tmpfs", libc.MS_NODEV)


def _probe_overlay() -> None:
    for name in ("upper", "work", "root"):
        os.mkdir(f"/tmp/{name}")
    libc.mount("overlay", "/tmp/root", "overlay", 0, "lowerdir=/etc,upperdir=/tmp/upper,workdir=/tmp/work")


def _probe_drop_reasons() -> None:
    os.mkdir("/tmp/tracing")
    libc.mount("tracefs", "/tmp/tracing", "tracefs")
    with open("/tmp/tracing/events/skb/kfree_skb/format", encoding="utf-8") as file:
        if "reason" not in file.read():
            raise KernelError("the tracepoint skb:kfree_skb has no reason (Linux 5.17 and later have)")


def _ask(family: int, kind: int, flags: int, body: bytes) -> int:
    """Send one request and return the errno it is answered with; 0 for an answer or a success."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as sock:
        sock.send(wire.Message(kind, flags, body, "").encode(1))
        for answer, _flags, _sequence, content in wire.walk_messages(sock.recv(65536)):
            return -int.from_bytes(content[:4], "little", signed=True) if answer == wire.NLMSG_ERROR else 0
    return errno.EPROTO


def _probe_rtnetlink(found: Found) -> None:
    for number, (kind, data) in enumerate(_LINKS.items()):
        info = [wire.text(wire.IFLA_INFO_KIND, kind)] + ([wire.nested(wire.IFLA_INFO_DATA, data)] if data else [])
        body = wire.LINK.pack(0, 0, 0, 0, 0) + wire.text(wire.IFLA_IFNAME, f"probe{number}")
        body += wire.nested(wire.IFLA_LINKINFO, *info)
        refused = _ask(socket.NETLINK_ROUTE, wire.RTM_NEWLINK, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body)
        found[kind] = (refused == 0, os.strerror(refused) if refused else "")
    for kind in _QDISCS:
        body = _TC.pack(0, socket.if_nametoindex("lo"), 0, _TC_ROOT, 0) + wire.text(1, kind)
        refused = _ask(socket.NETLINK_ROUTE, _RTM_NEWQDISC, wire.NLM_F_CREATE | wire.NLM_F_EXCL, body)
        # Without its options a known one is refused with EINVAL, an unknown one with ENOENT (net/sched/sch_api.c).
        known = refused in (0, errno.EINVAL)
        found[kind] = (known, "" if known else os.strerror(refused))


def _probe_ipset() -> None:
    body = struct.pack(">BBH", socket.AF_INET, 0, 0) + wire.attribute(1, b"\x07")  # IPSET_ATTR_PROTOCOL 7
    refused = _ask(_NETLINK_NETFILTER, (6 << 8) | 1, 0, body)  # NFNL_SUBSYS_IPSET, IPSET_CMD_PROTOCOL
    if refused:
        raise KernelError(f"ip_set: {os.strerror(refused)}", errno=refused)


def _probe_ipvs() -> None:
    body = struct.pack("=BBH", 3, 1, 0) + wire.text(2, "IPVS")  # CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME
    refused = _ask(_NETLINK_GENERIC, 0x10, 0, body)  # GENL_ID_CTRL
    if refused:
        raise KernelError(f"generic netlink family IPVS: {os.strerror(refused)}", errno=refused)


def _probe_conntrack(ns: Netns) -> None:
    with Conntrack(ns) as conntrack:
        conntrack.flows()


def _run_nft(ns: Netns, commands: str) -> None:
    with Nft(ns) as nft:
        nft.run(commands)


Started = tuple["subprocess.Popen[bytes]", IO[bytes]] | str


def _start_iptables(backend: str) -> Started:
    """The running tool and the file its words go to; or why there is none."""
    argv = [f"iptables-{backend}-restore", "--noflush", "-w"]
    environment = {**os.environ, "XTABLES_LOCKFILE": "/tmp/xtables.lock"}
    words = TemporaryFile()  # noqa: SIM115 - closed with this process
    with TemporaryFile() as rules:
        rules.write(_IPTABLES_RULES)
        rules.seek(0)
        try:
            return subprocess.Popen(argv, stdin=rules, stdout=words, stderr=words, env=environment), words
        except OSError as error:
            return f"{argv[0]}: {'not installed' if error.errno == errno.ENOENT else error.strerror}"


def _finish_iptables(started: Started) -> tuple[bool, str]:
    if isinstance(started, str):
        return False, started
    process, words = started
    status = process.wait()
    words.seek(0)
    return status == 0, " ".join(words.read().decode(errors="replace").split())


if __name__ == "__main__":
    main()
