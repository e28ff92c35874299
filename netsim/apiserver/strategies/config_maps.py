"""ConfigMaps.

Source: kubernetes ``pkg/apis/core/validation/validation.go`` (ValidateConfigMap).
"""

import re
from typing import Any

from netsim.apiserver.ages import age
from netsim.apiserver.causes import Causes
from netsim.apiserver.strategies.base import AGE, NAME, Column, Object, Strategy

_MAX_BYTES = 1024 * 1024
_KEY = re.compile(r"[-._a-zA-Z0-9]+")


class ConfigMapStrategy(Strategy):
    """Data without a spec."""

    columns = (NAME, Column("Data", "integer"), AGE)

    def validate(self, obj: Object, causes: Causes) -> None:
        data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
        for field, values in (("data", data), ("binaryData", binary)):
            for key in values:
                if not _KEY.fullmatch(key) or key in (".", "..") or len(key) > 253:
                    causes.invalid(
                        f"{field}[{key}]",
                        key,
                        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name', "
                        " or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                    )
        for key in data.keys() & binary.keys():
            causes.invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
        if sum(len(value) for values in (data, binary) for value in values.values()) > _MAX_BYTES:
            causes.too_long("", _MAX_BYTES)

    def validate_update(self, new: Object, old: Object, causes: Causes) -> None:
        if not old.get("immutable"):
            return
        if not new.get("immutable"):
            causes.forbidden("immutable", "field is immutable when `immutable` is set")
        for field in ("data", "binaryData"):
            if new.get(field) != old.get(field):
                causes.forbidden(field, "field is immutable when `immutable` is set")

    def row(self, obj: Object, now_s: float) -> list[Any]:
        count = len(obj.get("data") or ()) + len(obj.get("binaryData") or ())
        return [obj["metadata"]["name"], count, age(obj["metadata"].get("creationTimestamp"), now_s)]
