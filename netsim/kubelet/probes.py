"""Probes: what is asked, how often, and what the answers mean. Pure; ``prober`` asks.

Source: kubernetes pkg/kubelet/prober/worker.go, pkg/apis/core/v1/defaults.go, pkg/probe/http/http.go.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ProbeKind = Literal["startup", "liveness", "readiness"]
PROBE_KINDS: tuple[ProbeKind, ...] = ("startup", "liveness", "readiness")


@dataclass(frozen=True, slots=True)
class HttpTarget:
    scheme: str
    host: str  # "" is the pod's address
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TcpTarget:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ExecTarget:
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe with upstream's defaults filled in; all times in seconds."""

    kind: ProbeKind
    target: HttpTarget | TcpTarget | ExecTarget
    initial_delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """What one try gave; ``message`` is upstream's wording of a failure."""

    success: bool
    message: str = ""


class ProbeError(ValueError):
    """A probe that can't be understood: unknown handler or port name."""


def parse_probe(kind: ProbeKind, spec: Mapping[str, Any], container: Mapping[str, Any]) -> Probe:
    """The probe in ``container``'s field ``<kind>Probe``. Raises ProbeError."""
    return Probe(
        kind,
        _parse_target(spec, container),
        float(spec.get("initialDelaySeconds") or 0),
        float(spec.get("periodSeconds") or 10),
        float(spec.get("timeoutSeconds") or 1),
        int(spec.get("successThreshold") or 1),
        int(spec.get("failureThreshold") or 3),
    )


def parse_probes(container: Mapping[str, Any]) -> tuple[Probe, ...]:
    """All probes of ``container``. Raises ProbeError."""
    return tuple(
        parse_probe(kind, container[f"{kind}Probe"], container) for kind in PROBE_KINDS if container.get(f"{kind}Probe")
    )


def _parse_target(spec: Mapping[str, Any], container: Mapping[str, Any]) -> HttpTarget | TcpTarget | ExecTarget:
    if http := spec.get("httpGet"):
        headers = tuple((str(h["name"]), str(h.get("value", ""))) for h in http.get("httpHeaders") or ())
        path = str(http.get("path") or "/")
        return HttpTarget(
            str(http.get("scheme") or "HTTP").lower(),
            str(http.get("host") or ""),
            resolve_port(http.get("port"), container),
            path if path.startswith("/") else f"/{path}",
            headers,
        )
    if tcp := spec.get("tcpSocket"):
        return TcpTarget(str(tcp.get("host") or ""), resolve_port(tcp.get("port"), container))
    if command := spec.get("exec"):
        return ExecTarget(tuple(command.get("command") or ()))
    raise ProbeError(f"probe handler {', '.join(k for k in spec if k in ('grpc',)) or 'none'} is not supported")


def resolve_port(port: Any, container: Mapping[str, Any]) -> int:
    """A port number, or the container's port of that name. Raises ProbeError."""
    if isinstance(port, int):
        return port
    for declared in container.get("ports") or ():
        if declared.get("name") == port:
            return int(declared["containerPort"])
    if isinstance(port, str) and port.isdigit():
        return int(port)
    raise ProbeError(f"couldn't find port: {port!r}")


@dataclass(slots=True)
class Verdict:
    """The state of one probe of one running container: counts in a row, and the result that holds.

    Until the first threshold is met, readiness and startup have failed and liveness has succeeded, as upstream.
    """

    probe: Probe
    holds: bool = False
    _last: bool | None = None
    _row: int = 0

    def __post_init__(self) -> None:
        self.holds = self.probe.kind == "liveness"

    def record(self, answer: Answer) -> bool:
        """Take one answer in; True when a threshold was just met, and ``holds`` is then the result."""
        self._row = self._row + 1 if answer.success == self._last else 1
        self._last = answer.success
        threshold = self.probe.success_threshold if answer.success else self.probe.failure_threshold
        if self._row < threshold:
            return False
        changed = self.holds != answer.success or (not answer.success and self.probe.kind != "readiness")
        self.holds = answer.success
        return changed
