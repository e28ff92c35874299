"""What a cluster process that starts tells its launcher."""

import json
import os
from collections.abc import Callable
from typing import Any

from netsim.cluster import wire
from netsim.model.errors import NetsimError


class Report:
    """The launcher's ear: one line of JSON for each thing worth telling, until the cluster is ready."""

    def __init__(self, descriptor: int, abandon: Callable[[], None]) -> None:
        """``abandon``: what is to be done before the process ends where nobody listens any more."""
        self._descriptor = descriptor
        self._abandon = abandon

    def _send(self, message: dict[str, Any]) -> None:
        if self._descriptor < 0:
            return
        try:
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            self._abandon()
            os._exit(1)  # the launcher was killed before the cluster was ready: nobody waits for it, or knows of it

    def progress(self, text: str) -> None:
        self._send({"progress": text})

    def error(self, error: NetsimError) -> None:
        self._send({"error": wire.describe_error(error)})

    def ready(self, status: dict[str, Any]) -> None:
        self._send({"ready": status})
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
