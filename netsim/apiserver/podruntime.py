"""How the API server reaches a running pod: a protocol the kubelet implements and ``cluster`` hands in."""

from collections.abc import AsyncIterator
from typing import Protocol


class PodRuntime(Protocol):
    """The pods of this cluster, wherever they run."""

    async def read_log(
        self,
        namespace: str,
        pod: str,
        container: str | None,
        *,
        tail_lines: int | None = None,
        follow: bool = False,
    ) -> AsyncIterator[bytes]:
        """The container's output in pieces; with ``follow`` until it ends. Raises ApiError 400 or 404."""
        ...
