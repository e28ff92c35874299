"""Checks of names, labels and annotations; each returns upstream's complaint, or an empty string.

Source: kubernetes ``staging/src/k8s.io/apimachinery/pkg/util/validation/validation.go`` and
``.../pkg/api/validation/objectmeta.go``.
"""

import re
from collections.abc import Mapping
from typing import Any

from netsim.apiserver.causes import Causes

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_DNS_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = f"({_QUALIFIED})?"
_LABEL_RE, _SUBDOMAIN_RE, _DNS_1035_RE = re.compile(_LABEL), re.compile(_SUBDOMAIN), re.compile(_DNS_1035)
_QUALIFIED_RE, _VALUE_RE = re.compile(_QUALIFIED), re.compile(_VALUE)

ANNOTATIONS_MAX_BYTES = 256 * 1024


def _too_long(limit: int) -> str:
    return f"must be no more than {limit} characters"


def dns_subdomain(value: str) -> str:
    """RFC 1123 subdomain: the name of most objects."""
    if len(value) > 253:
        return _too_long(253)
    if _SUBDOMAIN_RE.fullmatch(value):
        return ""
    return (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start"
        f" and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
    )


def dns_label(value: str) -> str:
    """RFC 1123 label: namespaces, containers, volumes."""
    if len(value) > 63:
        return _too_long(63)
    if _LABEL_RE.fullmatch(value):
        return ""
    return (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end"
        f" with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
    )


def dns_1035_label(value: str) -> str:
    """RFC 1035 label: Services."""
    if len(value) > 63:
        return _too_long(63)
    if _DNS_1035_RE.fullmatch(value):
        return ""
    return (
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic"
        " character, and end with an alphanumeric character "
        f"(e.g. 'my-name',  or 'abc-123', regex used for validation is '{_DNS_1035}')"
    )


def port_name(value: str) -> list[str]:
    """An IANA service name: the name of a container's port and of a named targetPort."""
    found = []
    if len(value) > 15:
        found.append("must be no more than 15 characters")
    if not re.fullmatch(r"[-a-z0-9]+", value):
        found.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search(r"[a-z]", value):
        found.append("must contain at least one letter (a-z)")
    if "--" in value:
        found.append("must not contain consecutive hyphens")
    if value.startswith("-") or value.endswith("-"):
        found.append("must not begin or end with a hyphen")
    return found


def qualified_name(value: str) -> str:
    """A label's or annotation's key: ``[PREFIX/]NAME``."""
    prefix, slash, name = value.rpartition("/")
    if "/" in prefix:
        return (
            "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            f"alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            f"'{_QUALIFIED}') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        )
    if slash and not prefix:
        return "prefix part must be non-empty"
    if slash and (bad := dns_subdomain(prefix)):
        return f"prefix part {bad}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return f"name part {_too_long(63)}"
    if not _QUALIFIED_RE.fullmatch(name):
        return (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            "alphanumeric character "
            f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
        )
    return ""


def label_value(value: str) -> str:
    """A label's value."""
    if len(value) > 63:
        return _too_long(63)
    if _VALUE_RE.fullmatch(value):
        return ""
    return (
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
        "and end with an alphanumeric character "
        f"(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '{_VALUE}')"
    )


# Labels repeat over and over in a cluster, so each pair is checked once. Bounded: cleared when full.
_good_labels: set[tuple[str, str]] = set()


def check_labels(labels: Mapping[str, str] | None, path: str, causes: Causes) -> None:
    """Labels of an object or of a selector."""
    for pair in (labels or {}).items():
        if pair in _good_labels:
            continue
        key, value = pair
        bad_key, bad_value = qualified_name(key), label_value(value)
        if bad_key:
            causes.invalid(path, key, bad_key)
        if bad_value:
            causes.invalid(path, value, bad_value)
        if not bad_key and not bad_value:
            if len(_good_labels) >= 10_000:
                _good_labels.clear()
            _good_labels.add(pair)


def check_metadata(metadata: Mapping[str, Any], name_check: Any, causes: Causes) -> None:
    """``metadata`` of a new object; the name must be there by now."""
    name = metadata.get("name", "")
    if not name:
        causes.required("metadata.name", "name or generateName is required")
    elif bad := name_check(name):
        causes.invalid("metadata.name", name, bad)
    check_labels(metadata.get("labels"), "metadata.labels", causes)
    annotations = metadata.get("annotations")
    if annotations:
        for key in annotations:
            if bad := qualified_name(key.lower()):
                causes.invalid("metadata.annotations", key, bad)
        if sum(len(key) + len(value) for key, value in annotations.items()) > ANNOTATIONS_MAX_BYTES:
            causes.too_long("metadata.annotations", ANNOTATIONS_MAX_BYTES)
    for finalizer in metadata.get("finalizers") or ():
        if bad := qualified_name(finalizer):
            causes.invalid("metadata.finalizers", finalizer, bad)
    for index, owner in enumerate(metadata.get("ownerReferences") or ()):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                causes.invalid(f"metadata.ownerReferences[{index}].{field}", "", "must not be empty")
