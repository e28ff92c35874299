"""How requests reach an API server: one interface, in process or over HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

NO_QUERY: Mapping[str, str] = MappingProxyType({})

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: the HTTP status, and an object, a Status, or text."""

    status: int
    body: Any


class WatchStream(Protocol):
    """The events of one watch, in the order of their revisions."""

    def __aiter__(self) -> "WatchStream": ...

    async def __anext__(self) -> dict[str, Any]:
        """``{"type": "ADDED|MODIFIED|DELETED|BOOKMARK|ERROR", "object": {...}}``.

        Returns without suspending while events wait, so that a consumer drains them in one go. Ends with
        StopAsyncIteration when the server closes the stream.
        """
        ...

    def delivered(self) -> int:
        """Every event up to this revision has been handed out by ``__anext__``."""
        ...

    async def aclose(self) -> None: ...


class Transport(Protocol):
    """One way to an API server."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Response:
        """One request. A status >= 400 is returned, not raised; no answer at all raises ApiError 503."""
        ...

    async def watch(self, path: str, query: Mapping[str, str]) -> WatchStream:
        """Open a watch. Raises ApiError when it is refused (410 Expired: list again)."""
        ...

    async def close(self) -> None: ...
