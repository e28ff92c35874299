"""Reads a resolv.conf into the ``dns`` of a result."""

from typing import Any

from cni.types import IO_FAILURE, CniError


def parse_resolv_conf(text: str) -> dict[str, Any]:
    """``nameservers``, ``domain``, ``search`` and ``options`` of a resolv.conf(5)."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) < 2:
            continue
        key, *values = words
        if key == "nameserver":
            found.setdefault("nameservers", []).append(values[0])
        elif key == "domain":
            found["domain"] = values[0]
        elif key in ("search", "options"):
            found[key] = [*found.get(key, []), *values]
    return found


def read_resolv_conf(path: str) -> dict[str, Any]:
    """The file's DNS settings, {} for no path; CniError 5 if it cannot be read."""
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_resolv_conf(file.read())
    except OSError as error:
        raise CniError(IO_FAILURE, f"ipam.resolvConf: {path}: {error.strerror}") from None
