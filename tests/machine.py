"""What the tests must leave as it was: the machine's own namespaces, rules, links, mounts, routes and sysctls."""

import os
import re
import subprocess
from pathlib import Path

SESSION_VARIABLE = "NETSIM_TEST_SESSION"  # in the environment of every process that a test session starts
VOLATILE_SYSCTLS = {
    "net/netfilter/nf_conntrack_count",  # how many connections there are right now
}
SYSCTL_ROOTS = ("net", "user", "fs/inotify", "kernel/pid_max", "kernel/threads-max", "kernel/hostname")


def read_machine() -> dict[str, str]:
    """The machine's state as text, one entry for each kind of thing. What may not be read without root is left out."""
    state = {
        "links": _run("ip", "-o", "link"),
        "addresses": _run("ip", "-o", "address"),
        "routes": _run("ip", "route", "show", "table", "all"),
        "policy rules": _run("ip", "rule"),
        "named namespaces": "\n".join(sorted(_names("/run/netns"))),
        "mounts": _mounts(),
        "hosts": Path("/etc/hosts").read_text(),
        "resolver": Path("/etc/resolv.conf").read_text(),
        **_sysctls(),
    }
    if os.geteuid() == 0:
        state["nft"] = _without_counters(_run("nft", "list", "ruleset"))
        state["iptables"] = _without_counters(_run("iptables-save"))
        state["ip6tables"] = _without_counters(_run("ip6tables-save"))
        state["ipset"] = _run("ipset", "list", "-name")
    return state


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """One line for each thing that is not as it was."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, ""), after.get(name, "")
        if old != new:
            gone, come = set(old.splitlines()) - set(new.splitlines()), set(new.splitlines()) - set(old.splitlines())
            changes = [f"-{line}" for line in sorted(gone)] + [f"+{line}" for line in sorted(come)]
            lines.append(f"{name}: {' | '.join(changes[:20])}")
    return lines


def processes_of_session(session: str) -> list[str]:
    """``PID COMMAND`` of every living process with this session's mark in its environment, this one left out."""
    return processes_with(SESSION_VARIABLE, session)


def processes_with(variable: str, value: str) -> list[str]:
    """``PID COMMAND`` of every living process but this one that has VARIABLE=VALUE in its environment."""
    mark = f"{variable}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                found.append(f"{entry.name} {command}")
        except (OSError, ValueError):  # it ended while being read, or belongs to someone else
            continue
    return found


def _run(*argv: str) -> str:
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _mounts() -> str:
    # Without the mount's number and its parent's: those change when another process mounts something in between.
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return "\n".join(line.split(" ", 2)[2] for line in lines)


def _without_counters(text: str) -> str:
    text = re.sub(r"^#.*$", "", text, flags=re.M)  # iptables-save writes the time
    return re.sub(r"\[\d+:\d+\]|counter packets \d+ bytes \d+", "", text)


def _sysctls() -> dict[str, str]:
    values = {}
    for root in SYSCTL_ROOTS:
        path = Path("/proc/sys") / root
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        for file in files:
            name = str(file.relative_to("/proc/sys"))
            if name in VOLATILE_SYSCTLS:
                continue
            try:
                values[f"sysctl {name}"] = file.read_text()
            except OSError:  # write-only, or root's
                continue
    return values
