"""What the kubelet knows about a pod beyond its object: the sandbox and every container as they are now.

Data only: the worker fills it in, the planner reads it. ``*_s`` without ``wall`` is the clock's monotonic time.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Lifecycle = Literal["waiting", "running", "terminated"]


@dataclass(slots=True)
class ContainerRecord:
    """One container. ``name`` is unique over init and app containers of a pod."""

    name: str
    state: Lifecycle = "waiting"
    reason: str = "ContainerCreating"
    message: str = ""
    exit_code: int = 0
    signal: int = 0
    started_wall_s: float = 0.0
    started_s: float = 0.0
    finished_wall_s: float = 0.0
    ended_s: float = 0.0
    restarts: int = 0
    last: dict[str, Any] | None = None  # lastState.terminated
    ready: bool = False
    started: bool = False
    image_id: str = ""
    container_id: str = ""
    backoff_s: float = 0.0  # 0 before the first crash
    restart_at_s: float = 0.0
    stopping: bool = False
    stopping_since_s: float = 0.0
    kill_at_s: float | None = None  # when SIGKILL is due; None when it was sent or nothing is being stopped
    stop_reason: str = ""  # why the kubelet stops it while the pod lives (a failed probe)


@dataclass(slots=True)
class PodState:
    """The sandbox and containers of one pod."""

    sandbox: Literal["none", "ready", "gone"] = "none"
    sandbox_error: str = ""
    sandbox_backoff_s: float = 0.0
    sandbox_retry_at_s: float = 0.0
    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    start_wall_s: float = 0.0
    containers: dict[str, ContainerRecord] = field(default_factory=dict)
    removed: bool = False  # no longer in the API: tear down at once
    deleted: bool = False  # the final API delete is done

    @property
    def host_ip(self) -> str:
        """The primary one, "" where there is none."""
        return self.host_ips[0] if self.host_ips else ""

    def record(self, name: str) -> ContainerRecord:
        found = self.containers.get(name)
        if found is None:
            found = self.containers[name] = ContainerRecord(name)
        return found
