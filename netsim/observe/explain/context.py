"""What rules are asked with, and what they answer; and chance, which is taken every way. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from netsim.observe.explain.packet import Flow, Travel
from netsim.observe.explain.state import Place
from netsim.observe.path import RuleHit

T = TypeVar("T")
NatKind = Literal["dnat", "snat", "masquerade", "redirect"]


class Chances:
    """Takes the turns that it was told, then the first of each; notes all turns there were."""

    def __init__(self, turns: Sequence[int] = ()) -> None:
        self._turns = turns
        self.taken: list[tuple[int, tuple[float, ...]]] = []
        self.notes: list[str] = []

    def choose(self, odds: Sequence[float]) -> int:
        """One of several, by their odds (which sum up to 1)."""
        at = len(self.taken)
        turn = self._turns[at] if at < len(self._turns) else 0
        self.taken.append((turn, tuple(odds)))
        return turn

    def note(self, words: str) -> None:
        """What the model does not know, once."""
        if words not in self.notes:
            self.notes.append(words)

    @property
    def probability(self) -> float:
        product = 1.0
        for turn, odds in self.taken:
            product *= odds[turn]
        return product


def every_way(run: Callable[[Chances], T], most: int) -> Iterator[tuple[Chances, T]]:
    """Each way that chance may go, at most ``most`` of them: the model is run again for each, with the turns told."""
    turns: list[int] | None = []
    for _ in range(most):
        if turns is None:
            return
        chances = Chances(turns)
        yield chances, run(chances)
        turns = _next_turns(chances)


def _next_turns(chances: Chances) -> list[int] | None:
    taken = chances.taken
    for at in range(len(taken) - 1, -1, -1):
        turn, odds = taken[at]
        if turn + 1 < len(odds):
            return [*(number for number, _ in taken[:at]), turn + 1]
    return None


@dataclass(frozen=True, slots=True)
class Nat:
    """A translation that a rule asks for. ``port`` 0: keep it if that is possible; ``random``: any."""

    kind: NatKind
    address: str = ""
    port: int = 0
    random: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a hook's rules say: "" go on, accept, drop, reject. ``reply``: what a reject sends back."""

    verdict: Literal["", "accept", "drop", "reject", "stolen"] = ""
    rule: RuleHit | None = None  # which decided
    nat: Nat | None = None
    reply: str = ""  # "tcp reset", "port-unreachable", ...


@dataclass(slots=True)
class Asking:
    """A packet at a hook, and what rules may ask about it. Rules that match are noted in ``hits``."""

    place: Place
    packet: Travel
    hook: str
    chances: Chances
    interface_in: str = ""
    interface_out: str = ""
    flow: Flow | None = None
    state: str = ""  # new, established, related, untracked, invalid
    reply: bool = False  # against the flow's direction
    port_in: str = ""  # of a bridged packet: the bridge's ports
    port_out: str = ""
    layer: Literal["ip", "bridge", "netdev"] = "ip"  # whose hook it is; of the others interfaces are ports and devices
    hits: list[RuleHit] = field(default_factory=list)
