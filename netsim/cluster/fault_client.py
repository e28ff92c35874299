"""Faults from outside the cluster process: what the Cluster handle and the command line call."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from netsim.cluster.control_client import ControlClient


class ActiveFault:
    """A fault that was made. As a context manager it is undone at the end; otherwise it stays until it is undone, its
    time is up, or the cluster ends.

    ``id`` is 0 for ``kill``, which is over when it is done. ``details`` are those of ``netsim fault list -o json``.
    """

    def __init__(self, control: ControlClient, details: Mapping[str, Any]) -> None:
        self._control = control
        self.details = dict(details)
        self.id = int(details.get("id", 0))

    def undo(self) -> None:
        """May be repeated; also after its time."""
        if self.id:
            self._control.ask("fault", action="undo", request={"ids": [self.id], "ifThere": True})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"<fault {self.id} {self.details.get('kind')} {self.details.get('what')}>"


class Breaking:
    """Part of `netsim.cluster.handle.Cluster`: faults made on purpose."""

    _control: ControlClient

    def fault(self, kind: str, *places: str | Sequence[str], **values: Any) -> ActiveFault:
        """Make a fault: ``with cluster.fault("loss", "node/node-2", percent=5): ...``.

        ``values`` are the command line's options, ``for_`` for ``--for``; durations are ``"5s"`` or seconds, rates
        ``"10mbit"`` or bits/s. The places of a partition are its sets: ``fault("partition", ["node/a", "node/b"],
        "node/c")``.

        Raises UsageError, NetsimError (another fault is in the way, no such place), FeatureMissing, KernelError.
        """
        request: dict[str, Any] = {"kind": kind, **{key.rstrip("_"): value for key, value in values.items()}}
        if kind == "partition":
            request["sets"] = [[one] if isinstance(one, str) else list(one) for one in places]
        else:
            request["places"] = [place for one in places for place in ([one] if isinstance(one, str) else one)]
        return ActiveFault(self._control, self._control.ask("fault", action="add", request=request))

    def faults(self) -> list[dict[str, Any]]:
        """The active faults, as ``netsim fault list -o json`` has them."""
        return list(self.describe_faults()["faults"])

    def describe_faults(self) -> dict[str, Any]:
        """``faults`` that are active, and the last ones that ``ended``, with why."""
        return self._control.ask("fault", action="list", request={})

    def undo_faults(self, *numbers: int) -> list[dict[str, Any]]:
        """Undo these faults, or all where none is named; what was undone. Raises UsageError for one there is not."""
        request = {"ids": list(numbers)} if numbers else {}
        return list(self._control.ask("fault", action="undo", request=request)["undone"])

    def undo_faults_at(self, kind: str, *places: str) -> list[dict[str, Any]]:
        """Undo what there is of a kind at these places. Raises UsageError where there is none."""
        request = {"kind": kind, "places": list(places)}
        return list(self._control.ask("fault", action="undo-kind", request=request)["undone"])
