"""How requests reach an API server: in process or over HTTP, behind one interface."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. ``body`` is an object, a Status, or text; objects are shared and must not be mutated."""

    status: int
    body: Any


class WatchStream(Protocol):
    """The events of one watch, in order, until the server ends it."""

    def __aiter__(self) -> "WatchStream": ...

    async def __anext__(self) -> dict[str, Any]:
        """``{"type": "ADDED|MODIFIED|DELETED|BOOKMARK|ERROR", "object": {...}}``; ERROR carries a Status and is the last."""
        ...

    def delivered(self) -> int:
        """Every event up to this revision has been handed out."""
        ...

    async def aclose(self) -> None:
        """End the watch; may be repeated."""
        ...


class Transport(Protocol):
    """A way to an API server."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = {},
        body: Any = None,
        content_type: str = "application/json",
    ) -> Response:
        """One request. A status >= 400 is returned, not raised."""
        ...

    async def watch(self, path: str, query: Mapping[str, str]) -> WatchStream:
        """Start a watch. Raises ApiError when the server refuses (410: the resourceVersion is compacted)."""
        ...

    async def close(self) -> None:
        """Release connections; may be repeated."""
        ...
