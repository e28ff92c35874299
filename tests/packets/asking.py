"""Asking cells as real packets until each has shown all it may, and telling what came instead."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.packets.cells import Cell
from tests.packets.probes import SILENCE, Prober, Request, Result, Seen

MANY_TRIES = 48  # with two endpoints, one of which is never picked by chance: 2^-47
STICKY_ROUNDS = 6  # without affinity a cell of two endpoints would pass by chance in one of 32 runs; there are dozens


@dataclass
class Report:
    """What became of every cell. ``sticky`` ones must have shown one of the results they may have, again and again."""

    asked: dict[Cell, set[Result]] = field(default_factory=dict)
    expected: dict[Cell, frozenset[Result]] = field(default_factory=dict)
    sticky: frozenset[Cell] = frozenset()
    packets: int = 0

    def wrong(self) -> list[str]:
        return [
            f"{cell}: {_words(self.asked[cell])}; expected {_words(expected)}{', one of them' * (cell in self.sticky)}"
            for cell, expected in self.expected.items()
            if not self._is_right(cell, expected)
        ]

    def _is_right(self, cell: Cell, expected: frozenset[Result]) -> bool:
        asked = self.asked[cell]
        return len(asked) == 1 and asked <= expected if cell in self.sticky else asked == expected


def ask_all(prober: Prober, make_request: Callable[[Cell, bool], Request], report: Report, tries_each: int) -> None:
    """Every cell a few times, and those that have several outcomes until all were seen.

    ``make_request``: of a cell, and whether to wait patiently. Where silence may come the wait is short, and a silence
    that may not come there is asked once more, patiently.
    """
    cells = [cell for cell in report.expected if cell not in report.sticky]
    tries = {cell: tries_each * (1 if len(report.expected[cell]) == 1 else 3) for cell in cells}
    left = dict.fromkeys(cells, MANY_TRIES)

    def ask(asked: Sequence[Cell], *, patient: bool = False) -> None:
        requests = [make_request(cell, patient or not any(map(is_silent, report.expected[cell]))) for cell in asked]
        again = []
        for cell, result in zip(asked, prober.run(requests), strict=True):
            if not patient and is_silent(result) and result not in report.expected[cell]:
                again.append(cell)  # perhaps a busy machine's answer is on its way
            else:
                report.asked[cell].add(result)
        report.packets += len(asked)
        if again:
            ask(again, patient=True)

    while tries:
        ask([cell for cell, number in tries.items() for _ in range(number)])
        for cell, number in tries.items():
            left[cell] -= number
        # Those that have not shown all they may; what they must not show has ended it already.
        tries = {
            cell: min(8, left[cell]) for cell in tries if left[cell] > 0 and report.asked[cell] < report.expected[cell]
        }
    for _ in range(STICKY_ROUNDS):  # one after the other: two first packets at the same moment would both be the first
        ask([cell for cell in report.expected if cell in report.sticky])


def is_silent(result: Result) -> bool:
    """Whether a client waits in vain for it."""
    return result == SILENCE or (isinstance(result, Seen) and not result.answered)


def _words(results: Iterable[Result]) -> str:
    return " or ".join(sorted(_word(result) for result in results)) or "never asked"


def _word(result: Result) -> str:
    if isinstance(result, str):
        return result
    return f"{result.server} sees {result.address}" + ("" if result.answered else ", answer lost")
