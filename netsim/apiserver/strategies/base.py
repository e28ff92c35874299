"""The seam between the generic verbs and the kinds.

``core`` runs the verbs; a Strategy says what differs. Source: kubernetes
``staging/src/k8s.io/apiserver/pkg/registry/rest`` (RESTCreateStrategy, RESTUpdateStrategy,
RESTGracefulDeleteStrategy).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from netsim.apiserver.ages import age
from netsim.apiserver.causes import Causes
from netsim.apiserver.names import dns_subdomain
from netsim.model.kinds import Kind

Object = dict[str, Any]
Undo = Callable[[], None]


def nothing_to_undo() -> None:
    """The Undo of an allocation that took nothing."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of ``kubectl get``: priority 1 shows with ``-o wide`` only."""

    name: str
    type: str = "string"
    priority: int = 0
    format: str = ""
    description: str = ""


NAME = Column("Name", format="name", description="Name must be unique within a namespace.")
AGE = Column("Age", description="Time since creation.")


class Strategy:
    """One kind. Methods that take ``obj`` or ``new`` may change it; ``old`` is shared and must not be touched."""

    # Fields a field selector may name, beside metadata.name and metadata.namespace.
    selectable: frozenset[str] = frozenset()
    # Top-level fields whose change bumps metadata.generation; empty: the kind has no generation.
    generation_fields: tuple[str, ...] = ()
    returns_deleted_object = False  # DELETE answers with the object rather than a Status
    columns: Sequence[Column] = (NAME, AGE)

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.has_status = "status" in kind.subresources

    def check_name(self, name: str) -> str:
        """Upstream's complaint about a name, or an empty string."""
        return dns_subdomain(name)

    def prepare_create(self, obj: Object) -> None:
        """Drop what a creator may not set."""
        if self.has_status:
            obj["status"] = {}

    def default(self, obj: Object) -> None:
        """Fill in what the kind's defaults say. Runs on every new state, so it must be repeatable."""

    def validate(self, obj: Object, causes: Causes) -> None:
        """Check a complete object."""

    def prepare_update(self, new: Object, old: Object) -> None:
        """Restore what an update of the main resource may not change."""
        if self.has_status:
            if "status" in old:
                new["status"] = old["status"]
            else:
                new.pop("status", None)

    def validate_update(self, new: Object, old: Object, causes: Causes) -> None:
        """Check the step from ``old`` to ``new``: immutable fields."""

    def validate_status(self, new: Object, old: Object, causes: Causes) -> None:
        """Check an update of /status."""

    def restore(self, obj: Object) -> None:
        """``obj`` was in the store when the server started: take what it holds."""

    def allocate(self, new: Object, old: Object | None, causes: Causes) -> Undo:
        """Take addresses and ports for ``new``. What it returns gives them back should the write not happen."""
        return nothing_to_undo

    def written(self, new: Object, old: Object | None) -> None:
        """``new`` is in the store: give back what only ``old`` needed."""

    def deleted(self, obj: Object) -> None:
        """``obj`` has left the store."""

    def may_delete(self, obj: Object) -> None:
        """Raise ApiError if this object may not be deleted."""

    def deletion_blocked(self, obj: Object) -> bool:
        """Something beside metadata.finalizers keeps the object after DELETE."""
        return False

    def prepare_delete(self, obj: Object) -> None:
        """The object stays with a deletionTimestamp: mark it."""

    def grace_period_s(self, obj: Object, asked: int | None) -> int:
        """Seconds between DELETE and the end; 0 deletes at once. ``asked`` is the client's wish."""
        return 0

    def row(self, obj: Object, now_s: float) -> list[Any]:
        """The cells of ``columns``."""
        return [obj["metadata"]["name"], age(obj["metadata"].get("creationTimestamp"), now_s)]
