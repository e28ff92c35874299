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


def rss_mb() -> float:
    """Resident memory of this process."""
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return int(match[1]) / 1024 if match else float("nan")


def charged_kernel_mb() -> float | None:
    """Kernel memory charged to this process's own control group, so that what others do does not count; None without.

    nf_tables and xtables charge what they hold to who loads it (GFP_KERNEL_ACCOUNT), but for xtables' counters.
    """
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            usage = Path(f"/sys/fs/cgroup/memory{path}/memory.kmem.usage_in_bytes")
            if usage.exists():
                return int(usage.read_text()) / 2**20
        elif not controllers:
            for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                stat = Path(f"{root}{path}/memory.stat")
                match = re.search(r"^kernel (\d+)$", stat.read_text(), re.M) if stat.exists() else None
                if match:
                    return int(match[1]) / 2**20
    return None
