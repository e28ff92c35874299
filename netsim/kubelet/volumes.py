"""Volumes as directories and files of the state directory, shown in containers by bind mounts.

A ConfigMap is written once, when a container is made; a later change does not reach running containers (upstream's
kubelet does that within a minute). hostPath is the machine's own tree, and read-only: nothing in a cluster may change
the machine.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netsim.kernel.container import Bind
from netsim.kubelet.environment import ConfigError, PodFacts, read_field

SUPPORTED = ("emptyDir", "configMap", "hostPath", "downwardAPI", "projected")


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """One volume: files to write (path in the volume, content, mode), or a path of the machine."""

    name: str
    files: tuple[tuple[str, str, int], ...] = ()
    machine_path: str = ""


def plan_volumes(pod: Mapping[str, Any], facts: PodFacts) -> list[VolumePlan]:
    """Every volume of ``pod``. Raises ConfigError: a ConfigMap is missing, or the type is not supported. Pure."""
    plans = []
    for volume in pod["spec"].get("volumes") or ():
        name = volume["name"]
        kinds = [key for key in volume if key != "name"]
        kind = kinds[0] if kinds else "emptyDir"
        if kind not in SUPPORTED:
            raise ConfigError(f'volume "{name}": {kind} is not supported', hint=f"supported: {', '.join(SUPPORTED)}")
        source = volume.get(kind) or {}
        if kind == "hostPath":
            plans.append(VolumePlan(name, machine_path=str(source.get("path", ""))))
        elif kind == "projected":
            files = [f for part in source.get("sources") or () for f in _plan_projection(pod, name, part, facts)]
            plans.append(VolumePlan(name, tuple(files)))
        else:
            plans.append(VolumePlan(name, tuple(_plan_files(pod, name, kind, source, facts))))
    return plans


def _plan_projection(
    pod: Mapping[str, Any], name: str, part: Mapping[str, Any], facts: PodFacts
) -> Sequence[tuple[str, str, int]]:
    for kind in ("configMap", "downwardAPI"):
        if kind in part:
            return _plan_files(pod, name, kind, part[kind] or {}, facts)
    if "serviceAccountToken" in part:
        return ()
    raise ConfigError(f'volume "{name}": projected {", ".join(part)} is not supported')


def _plan_files(
    pod: Mapping[str, Any], name: str, kind: str, source: Mapping[str, Any], facts: PodFacts
) -> Sequence[tuple[str, str, int]]:
    mode = int(source.get("defaultMode") or 0o644)
    if kind == "emptyDir":
        return ()
    if kind == "downwardAPI":
        return [
            (item["path"], read_field(pod, (item.get("fieldRef") or {}).get("fieldPath", ""), facts), mode)
            for item in source.get("items") or ()
        ]
    config_map = facts.config_maps(source.get("name", ""))
    if config_map is None:
        if source.get("optional"):
            return ()
        raise ConfigError(f'MountVolume.SetUp failed for volume "{name}" : configmap "{source.get("name")}" not found')
    data: Mapping[str, str] = config_map.get("data") or {}
    items = source.get("items")
    if items is None:
        return [(key, str(value), mode) for key, value in data.items()]
    files = []
    for item in items:
        if item["key"] not in data:
            if source.get("optional"):
                continue
            raise ConfigError(f'volume "{name}": configmap references non-existent config key: {item["key"]}')
        files.append((item["path"], str(data[item["key"]]), int(item.get("mode") or mode)))
    return files


def apply_volumes(plans: Sequence[VolumePlan], folder: Path) -> None:
    """Make the volumes below ``folder``; what is there already stays, files are written again."""
    for plan in plans:
        if plan.machine_path:
            continue
        root = folder / plan.name
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o777)  # emptyDir is writable for every user, pkg/volume/emptydir
        for relative, content, mode in plan.files:
            path = (root / relative).resolve()
            if not path.is_relative_to(root.resolve()):
                raise ConfigError(f'volume "{plan.name}": path "{relative}" leaves the volume')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            path.chmod(mode)


def plan_mounts(plans: Sequence[VolumePlan], container: Mapping[str, Any], folder: Path) -> list[Bind]:
    """The bind mounts of one container's volumeMounts. Raises ConfigError for a volume that is not there."""
    by_name = {plan.name: plan for plan in plans}
    binds = []
    for mount in container.get("volumeMounts") or ():
        plan = by_name.get(mount["name"])
        if plan is None:
            raise ConfigError(f'volumeMounts: volume "{mount["name"]}" is not in spec.volumes')
        source = plan.machine_path or os.fspath(folder / plan.name)
        sub_path = str(mount.get("subPath") or "")
        if ".." in sub_path.split("/"):
            raise ConfigError(f'volumeMounts: subPath "{sub_path}" must not contain ".."')
        if sub_path:
            source = os.path.join(source, sub_path)
            if not plan.machine_path and not os.path.lexists(source):
                os.makedirs(source)
        read_only = bool(mount.get("readOnly")) or bool(plan.machine_path)
        binds.append(Bind(source, str(mount["mountPath"]), read_only))
    return binds


def remove_folder(folder: Path) -> None:
    """Forget a pod's files. Safe to repeat."""
    shutil.rmtree(folder, ignore_errors=True)
