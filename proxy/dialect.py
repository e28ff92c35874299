"""The seam between the service map and a way of writing rules: iptables now, nftables and ipvs later.

A dialect decides in data (`read`'s result and a snapshot in, a `Plan` out) and acts in one place (`apply`). It
keeps nothing about a node itself: what a node has is in the plan's ``state``, which the caller hands back for the
next change once the plan has been applied. A plan that failed is forgotten, and the node is planned in full.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from proxy.config import FamilyView
from proxy.servicemap import ServicePortName, Snapshot

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Plan(Generic[State]):
    """What to write on one node for one family, and what the node has afterwards.

    ``str(plan)`` is the text that is written.
    """

    family: int
    state: State
    text: str  # "" when there is nothing to do
    full: bool

    def __str__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        """Whether there is anything to do. A dialect that writes no text says so in a class of its own."""
        return bool(self.text)


class Target(Protocol):
    """A dialect's hands on one node; they raise KernelError in the words of the kernel or the tool."""

    async def read(self, family: int) -> Any:
        """What of this dialect is there already, in the form its ``plan_full`` and ``plan_cleanup`` want."""
        ...

    async def apply(self, plan: Plan[Any]) -> None:
        """Write the plan, whole or not at all."""
        ...

    async def is_intact(self, view: FamilyView) -> bool:
        """Whether the rules are still there; False when somebody flushed them."""
        ...


@runtime_checkable
class AddressFollower(Protocol):
    """A target whose plans depend on the addresses of the node's links, which change without the API knowing."""

    def follow(self, family: int, changed: Callable[[], None]) -> None:
        """Call ``changed`` in the running event loop when an address came or went, until `unfollow`."""
        ...

    def unfollow(self, family: int) -> None: ...

    def has_moved(self, view: FamilyView) -> bool:
        """Whether the node has other addresses than those of the plan applied last."""
        ...


class Dialect(Protocol):
    """One proxy mode."""

    name: str

    def plan_full(self, snapshot: Snapshot, view: FamilyView, existing: Any) -> Plan[Any]:
        """Everything, whatever ``existing`` (what `Target.read` saw) has; stale things of ours go."""
        ...

    def plan_changes(
        self, snapshot: Snapshot, changed: Collection[ServicePortName], previous: Any, view: FamilyView
    ) -> Plan[Any]:
        """Only what differs, ``previous`` being the ``state`` of the plan applied last."""
        ...

    def plan_cleanup(self, family: int, existing: Any) -> Plan[Any]:
        """Remove everything this dialect ever writes."""
        ...
