"""Validation errors with field paths, in upstream's words.

Source: kubernetes ``staging/src/k8s.io/apimachinery/pkg/util/validation/field/errors.go``.
"""

import json
from collections.abc import Iterable
from typing import Any

from netsim.model.errors import ApiError
from netsim.model.kinds import Kind


def quote(value: Any) -> str:
    """A value as Go's errors show it: strings quoted, booleans and numbers plain, the rest as JSON."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value, separators=(",", ":"), default=str)


class Causes:
    """What is wrong with an object, collected so that the user sees all of it at once."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[tuple[str, str, str]] = []  # reason, field path, text

    def __bool__(self) -> bool:
        return bool(self.found)

    def invalid(self, path: str, value: Any, detail: str) -> None:
        self.found.append(("FieldValueInvalid", path, f"Invalid value: {quote(value)}: {detail}"))

    def invalid_go(self, path: str, shown: str, detail: str) -> None:
        """Like ``invalid``, for a value upstream prints as a Go literal."""
        self.found.append(("FieldValueInvalid", path, f"Invalid value: {shown}: {detail}"))

    def required(self, path: str, detail: str = "") -> None:
        self.found.append(("FieldValueRequired", path, f"Required value: {detail}" if detail else "Required value"))

    def duplicate(self, path: str, value: Any) -> None:
        self.found.append(("FieldValueDuplicate", path, f"Duplicate value: {quote(value)}"))

    def duplicate_go(self, path: str, shown: str) -> None:
        self.found.append(("FieldValueDuplicate", path, f"Duplicate value: {shown}"))

    def not_supported(self, path: str, value: Any, supported: Iterable[str]) -> None:
        listed = ", ".join(f'"{item}"' for item in sorted(supported))
        text = f"Unsupported value: {quote(value)}: supported values: {listed}"
        self.found.append(("FieldValueNotSupported", path, text))

    def forbidden(self, path: str, detail: str) -> None:
        self.found.append(("FieldValueForbidden", path, f"Forbidden: {detail}"))

    def not_found(self, path: str, value: Any) -> None:
        self.found.append(("FieldValueNotFound", path, f"Not found: {quote(value)}"))

    def too_long(self, path: str, limit_bytes: int) -> None:
        self.found.append(("FieldValueTooLong", path, f"Too long: must have at most {limit_bytes} bytes"))

    def error(self, kind: Kind, name: str) -> ApiError:
        """422 Invalid that lists them all."""
        lines = [f"{path}: {text}" for _, path, text in self.found]
        body = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
        qualified = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
        details: dict[str, Any] = {"name": name, "kind": kind.kind}
        if kind.group:
            details["group"] = kind.group
        details["causes"] = [{"reason": reason, "message": text, "field": path} for reason, path, text in self.found]
        return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {body}', details=details)
