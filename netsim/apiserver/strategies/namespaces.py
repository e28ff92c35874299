"""Namespaces.

Source: kubernetes ``pkg/registry/core/namespace/strategy.go`` and ``.../storage/storage.go``; the columns' from
``pkg/printers/internalversion/printers.go``.
"""

from typing import Any

from netsim.apiserver.ages import age
from netsim.apiserver.names import dns_label
from netsim.apiserver.refusals import forbidden
from netsim.apiserver.strategies.base import AGE, NAME, Column, Object, Strategy

_IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
_NAME_LABEL = "kubernetes.io/metadata.name"


class NamespaceStrategy(Strategy):
    """A namespace stays, Terminating, until the namespace controller empties ``spec.finalizers`` by /finalize."""

    selectable = frozenset({"status.phase"})
    returns_deleted_object = True
    columns = (NAME, Column("Status"), AGE)

    def check_name(self, name: str) -> str:
        return dns_label(name)

    def prepare_create(self, obj: Object) -> None:
        obj["status"] = {"phase": "Active"}
        spec = obj["spec"] = dict(obj.get("spec") or {})
        if "kubernetes" not in spec.get("finalizers", ()):
            spec["finalizers"] = [*spec.get("finalizers", ()), "kubernetes"]

    def default(self, obj: Object) -> None:
        labels = obj["metadata"].setdefault("labels", {})
        if labels.get(_NAME_LABEL) != obj["metadata"].get("name"):
            labels[_NAME_LABEL] = obj["metadata"].get("name", "")

    def prepare_update(self, new: Object, old: Object) -> None:
        super().prepare_update(new, old)
        new["spec"] = {**(new.get("spec") or {})}
        new["spec"].pop("finalizers", None)  # /finalize alone writes them
        if "finalizers" in old.get("spec", {}):
            new["spec"]["finalizers"] = old["spec"]["finalizers"]

    def may_delete(self, obj: Object) -> None:
        if obj["metadata"]["name"] in _IMMORTAL:
            raise forbidden(self.kind, obj["metadata"]["name"], "this namespace may not be deleted")

    def deletion_blocked(self, obj: Object) -> bool:
        return bool(obj.get("spec", {}).get("finalizers"))

    def prepare_delete(self, obj: Object) -> None:
        obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}

    def row(self, obj: Object, now_s: float) -> list[Any]:
        metadata = obj["metadata"]
        phase = obj.get("status", {}).get("phase", "")
        return [metadata["name"], phase, age(metadata.get("creationTimestamp"), now_s)]
