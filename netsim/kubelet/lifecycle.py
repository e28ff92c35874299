"""Lifecycle hooks (postStart, preStop), run in the background of a pod's worker."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from netsim.kernel.netns import Netns
from netsim.kubelet.prober import ProbeSubject, ask
from netsim.kubelet.probes import HttpTarget, Probe, resolve_port
from netsim.model.clock import Clock

EXEC_TIMEOUT_S = 3600.0  # a hook ends with its container at the latest
HTTP_TIMEOUT_S = 30.0


class Hooks:
    """At most one hook for each container; the end of the container ends its hook."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, hook: Coroutine[Any, Any, None]) -> None:
        self.stop(name)
        self._tasks[name] = asyncio.get_running_loop().create_task(hook)

    def stop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        # A hook whose last step ends the container must not cancel itself.
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def cancel(self) -> None:
        for name in list(self._tasks):
            self.stop(name)

    async def run(
        self, hook: Mapping[str, Any], container: Mapping[str, Any], subject: ProbeSubject, node: Netns
    ) -> str:
        """Run one hook; what went wrong, "" if nothing. Raises NetsimError."""
        if "sleep" in hook:
            await self._clock.sleep(float(hook["sleep"].get("seconds") or 0))
            return ""
        if "exec" in hook:
            code, output = await subject.run(tuple(hook["exec"].get("command") or ()), EXEC_TIMEOUT_S)
            return "" if code == 0 else f"exited with {code}: {output[:500].decode('utf-8', 'replace').strip()}"
        if "httpGet" in hook:
            http = hook["httpGet"]
            target = HttpTarget(
                str(http.get("scheme") or "HTTP").lower(),
                str(http.get("host") or ""),
                resolve_port(http.get("port"), container),
                str(http.get("path") or "/"),
            )
            answer = await ask(Probe("liveness", target, timeout_s=HTTP_TIMEOUT_S), subject)
            return "" if answer.success else answer.message
        return f"unknown handler {', '.join(hook)}"
