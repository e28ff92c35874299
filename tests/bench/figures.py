"""How a benchmark reports: one line for each figure, its floor measured in the same run, and the ratio.

A benchmark is a program, ``tests/bench/bench_NAME.py``, with a ``main()`` that calls ``show`` for each figure;
``scripts/bench`` runs them all. No test asserts a time: machines differ, ratios in one run say more.
"""

import statistics
import time
from collections.abc import Callable


def measure_s(action: Callable[[], object], times: int) -> float:
    """The median time of ``action``, in seconds."""
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def show(
    name: str, ours: float, unit: str, *, floor: float | None = None, floor_name: str = "", goal: str = ""
) -> None:
    """Print one figure. ``floor`` is what the kernel or the bare tool needs for the same, in the same unit."""
    parts = [f"{name:44} {ours:10.3g} {unit:3}"]
    parts.append(f"goal {goal:8}" if goal else " " * 13)
    if floor is not None:
        parts.append(f"floor {floor:8.3g} {unit} ({floor_name}), ratio {ours / floor:.1f}")
    print("  ".join(parts).rstrip(), flush=True)
