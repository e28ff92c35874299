"""What goes into the API server and what comes out, apart from any wire."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netsim.client.transport import Response
from netsim.model.errors import ApiError

JSON = "application/json"
_TRUE = frozenset({"true", "1", "t", "T", "TRUE", "True"})
_FALSE = frozenset({"", "false", "0", "f", "F", "FALSE", "False"})


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``body`` is parsed JSON (or None); in process the caller keeps it, over HTTP it is ours."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = JSON
    accept: str = ""
    owned: bool = False  # nobody else holds ``body``: it need not be copied


@dataclass(frozen=True, slots=True)
class Answer(Response):
    """A Response with what only HTTP can use: the body as JSON already, and warnings for the client's user."""

    encoded: bytes | None = None
    warnings: tuple[str, ...] = ()


def is_true(query: Mapping[str, str], name: str) -> bool:
    """A boolean query parameter as Go's strconv.ParseBool reads it. Raises ApiError 400."""
    value = query.get(name, "")
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise bad_request(f'invalid value "{value}" for the query parameter {name}: must be true or false')


def whole_number(query: Mapping[str, str], name: str) -> int | None:
    """A numeric query parameter, None if it is not there. Raises ApiError 400."""
    value = query.get(name, "")
    if not value:
        return None
    try:
        return int(value)
    except ValueError as error:
        raise bad_request(f'invalid value "{value}" for the query parameter {name}: must be a whole number') from error


def bad_request(message: str) -> ApiError:
    """400 in upstream's form."""
    return ApiError(400, "BadRequest", message)


def prune(value: Any) -> Any:
    """A deep copy of JSON data without its null fields: for Go, a null field is an absent one."""
    kind = type(value)
    if kind is dict:
        return {key: prune(item) if type(item) in _NESTED else item for key, item in value.items() if item is not None}
    if kind is list:
        return [prune(item) if type(item) in _NESTED else item for item in value]
    return value


_NESTED = (dict, list)
