"""Errors a user can act on: what failed, where, in whose words, and what to do next."""

from collections.abc import Mapping, Sequence
from typing import Any


class NetsimError(Exception):
    """Something failed that the user should hear about in one clear message, without a traceback.

    message: what failed, with the kernel's or the tool's own words.
    where:   the namespace, object, or file, line and field concerned.
    hint:    what to do next.
    """

    exit_status = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  next: {self.hint}" if self.hint else text


class UsageError(NetsimError):
    """The command line or an argument is wrong (exit status 2)."""

    exit_status = 2


class InputError(NetsimError):
    """A file the user gave is wrong: ``where`` is ``FILE:LINE`` or ``FILE:LINE: field``."""


class KernelError(NetsimError):
    """The kernel refused an operation. ``errno`` is its number, ``message`` has its words."""

    def __init__(self, message: str, *, errno: int = 0, where: str = "", hint: str = "") -> None:
        super().__init__(message, where=where, hint=hint)
        self.errno = errno


class FeatureMissing(NetsimError):
    """This machine lacks something. ``feature`` is its name as ``netsim check`` lists it."""

    def __init__(self, feature: str, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message, where=where, hint=hint)
        self.feature = feature


class TimeoutExpired(NetsimError):
    """Something did not become true in time; ``message`` names it and the last state seen."""


class ApiError(NetsimError):
    """An answer of the Kubernetes API that is not a success, as a ``Status`` object has it.

    code:    the HTTP status.
    reason:  upstream's machine-readable word (``NotFound``, ``AlreadyExists``, ``Conflict``, ``Invalid``, ...).
    details: the ``details`` of the Status: name, group, kind, causes.

    Source: kubernetes ``staging/src/k8s.io/apimachinery/pkg/api/errors/errors.go``.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.reason = reason
        self.details = dict(details or {})

    def to_status(self) -> dict[str, Any]:
        """The ``Status`` object that carries this error over HTTP."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            status["details"] = self.details
        return status

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> "ApiError":
        """The error that a ``Status`` object carries."""
        return cls(
            int(status.get("code", 500)),
            str(status.get("reason", "")),
            str(status.get("message", "")),
            details=status.get("details"),
        )


def not_found(plural: str, group: str, name: str) -> ApiError:
    """404 in upstream's words."""
    resource = f"{plural}.{group}" if group else plural
    return ApiError(
        404, "NotFound", f'{resource} "{name}" not found', details={"name": name, "group": group, "kind": plural}
    )


def invalid(kind: str, group: str, name: str, causes: Sequence[tuple[str, str]]) -> ApiError:
    """422 in upstream's words; ``causes`` are (field path, text) pairs."""
    lines = [f"{field}: {text}" for field, text in causes]
    body = lines[0] if len(lines) == 1 else "[" + ", ".join(lines) + "]"
    qualified = f"{kind}.{group}" if group else kind
    return ApiError(
        422,
        "Invalid",
        f'{qualified} "{name}" is invalid: {body}',
        details={
            "name": name,
            "group": group,
            "kind": kind,
            "causes": [{"reason": "FieldValueInvalid", "message": t, "field": f} for f, t in causes],
        },
    )
