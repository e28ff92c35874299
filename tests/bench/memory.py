"""What a cluster holds: the memory of its processes and of the kernel."""

import re
from pathlib import Path

# Kernel memory that grows with namespaces, links and rules. Percpu is where a namespace's counters live.
KERNEL_FIELDS = ("Slab", "KernelStack", "PageTables", "Percpu", "VmallocUsed")


def processes_below(pid: int) -> list[int]:
    """``pid`` and all its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def pss_kib(pids: list[int]) -> int:
    """Proportional set size: every page counted once, shared ones shared out (proc_pid_smaps(5))."""
    total = 0
    for pid in pids:
        match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
        total += int(match[1]) if match else 0
    return total


def kernel_kib() -> int:
    """The machine's kernel memory of those kinds; only differences on an otherwise quiet machine mean something."""
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
    return sum(int(fields[name]) for name in KERNEL_FIELDS)
