"""Reads a JSON object's values with their type checked, so that a wrong type is an error and never a crash. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from cni.types import INVALID_CONFIG, CniError

_EMPTY: Mapping[str, Any] = {}


class Reader:
    """An object of the configuration. Missing keys and null are the type's zero; a wrong type is CniError code 7."""

    __slots__ = ("_where", "body")

    def __init__(self, body: object, where: str = "") -> None:
        if body is None:
            body = _EMPTY
        if not isinstance(body, Mapping):
            raise _wrong(where or "configuration", "an object", body)
        self.body: Mapping[str, Any] = body
        self._where = where

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def get(self, key: str) -> Any:
        """The bare value."""
        return self.body.get(key)

    def text(self, key: str) -> str:
        """A string."""
        value = self.body.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _wrong(self._path(key), "a string", value)
        return value

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A boolean, or the strings "true" and "false", which libcni takes as well."""
        value = self.body.get(key)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise _wrong(self._path(key), "true or false", value)

    def number(self, key: str, *, maximum: int = (1 << 63) - 1) -> int:
        """A whole number, not negative."""
        value = self.optional_number(key)
        if value is not None and value > maximum:
            raise _wrong(self._path(key), f"at most {maximum}", value)
        return value or 0

    def optional_number(self, key: str) -> int | None:
        """A whole number, not negative; None if it is not there."""
        value = self.body.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _wrong(self._path(key), "a whole number, 0 or more", value)
        return value

    def object(self, key: str) -> "Reader":
        """An object."""
        return Reader(self.body.get(key), self._path(key))

    def _list(self, key: str) -> list[Any]:
        value = self.body.get(key)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise _wrong(self._path(key), "a list", value)
        return list(value)

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        values = self._list(key)
        for value in values:
            if not isinstance(value, str):
                raise _wrong(self._path(key), "a list of strings", value)
        return values

    def readers(self, key: str) -> list["Reader"]:
        """A list of objects."""
        return [Reader(one, self._path(key)) for one in self._list(key)]

    def lists(self, key: str) -> list["ListReader"]:
        """A list of lists of objects."""
        return [ListReader(one, self._path(key)) for one in self._list(key)]


class ListReader:
    """A list of objects inside a list."""

    __slots__ = ("_items", "_where")

    def __init__(self, items: object, where: str) -> None:
        if not isinstance(items, list | tuple):
            raise _wrong(where, "a list of lists", items)
        self._items = items
        self._where = where

    def objects(self) -> Iterator[Mapping[str, Any]]:
        """The objects."""
        return (Reader(one, self._where).body for one in self._items)


def _wrong(path: str, expected: str, value: object) -> CniError:
    return CniError(INVALID_CONFIG, f"{path}: expected {expected}, got {value!r}")
