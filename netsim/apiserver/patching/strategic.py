"""Strategic merge patch: a merge patch that knows which lists merge and by which key. ``kubectl apply`` speaks it.

Source: kubernetes ``staging/src/k8s.io/apimachinery/pkg/util/strategicpatch/patch.go`` and
https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from typing import Any

from netsim.apiserver.request import bad_request, prune
from netsim.apiserver.schema.tables import TYPES, Field

_DIRECTIVE = "$patch"
_RETAIN_KEYS = "$retainKeys"
_ORDER = "$setElementOrder/"
_DELETE_VALUES = "$deleteFromPrimitiveList/"
_PLAIN = Field("", "object")


def strategic_merge(document: Any, patch: Any, type_: str) -> Any:
    """``document`` (of the Go type ``type_``) with ``patch`` applied. Raises ApiError 400 on a malformed patch.

    The result shares unchanged parts with ``document`` and nothing with ``patch``.
    """
    if not isinstance(patch, dict):
        raise bad_request("a strategic merge patch is an object")
    return _merge_map(document if isinstance(document, dict) else {}, patch, type_)


def _merge_map(original: dict[str, Any], patch: dict[str, Any], type_: str) -> dict[str, Any]:
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return _merge_map({}, {key: value for key, value in patch.items() if key != _DIRECTIVE}, type_)
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"unknown {_DIRECTIVE} directive: {directive}")
    result = _retain_keys(original, patch)
    fields = TYPES.get(type_, {})
    for key, value in patch.items():
        if key in (_DIRECTIVE, _RETAIN_KEYS) or key.startswith((_ORDER, _DELETE_VALUES)):
            continue
        if value is None:
            result.pop(key, None)
            continue
        field = fields.get(key, _PLAIN)
        old = result.get(key)
        if isinstance(value, dict):
            inner = field.type if field.shape == "" else "object"
            result[key] = _merge_map(old if isinstance(old, dict) else {}, value, inner)
        elif isinstance(value, list) and field.merge_key is not None:
            order = patch.get(_ORDER + key)
            result[key] = _merge_list(old if isinstance(old, list) else [], value, field, order)
        else:
            result[key] = prune(value)
    _apply_list_directives(result, patch, fields)
    return result


def _retain_keys(original: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    retained = patch.get(_RETAIN_KEYS)
    if retained is None:
        return dict(original)
    if not isinstance(retained, list):
        raise bad_request(f"{_RETAIN_KEYS} is a list of keys")
    stray = [
        key for key, value in patch.items() if not key.startswith("$") and value is not None and key not in retained
    ]
    if stray:
        raise bad_request(f"{_RETAIN_KEYS} lacks {', '.join(stray)}, which the patch sets")
    return {key: value for key, value in original.items() if key in retained}


def _apply_list_directives(result: dict[str, Any], patch: dict[str, Any], fields: Any) -> None:
    """Deletions from lists of plain values, and orders of lists the patch does not otherwise mention."""
    for key, value in patch.items():
        if key.startswith(_DELETE_VALUES):
            name = key.removeprefix(_DELETE_VALUES)
            if isinstance(result.get(name), list):
                result[name] = [item for item in result[name] if item not in value]
        elif key.startswith(_ORDER):
            name = key.removeprefix(_ORDER)
            field = fields.get(name, _PLAIN)
            if name not in patch and isinstance(result.get(name), list) and field.merge_key is not None:
                result[name] = _in_order(result[name], result[name], field.merge_key, value)


def _key_of(item: Any, merge_key: str) -> Any:
    return item.get(merge_key) if merge_key and isinstance(item, dict) else item


def _merge_list(original: list[Any], patch: list[Any], field: Field, order: Any) -> list[Any]:
    merge_key = field.merge_key or ""
    if not merge_key:
        merged = [*original, *(item for item in patch if item not in original)]
        return _in_order(merged, original, merge_key, order)
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in patch):
        return [prune(item) for item in patch if not (isinstance(item, dict) and item.get(_DIRECTIVE) == "replace")]
    result = list(original)
    for item in patch:
        if not isinstance(item, dict):
            raise bad_request(f"a list that merges by {merge_key} holds objects, not {item!r}")
        key = item.get(merge_key)
        if key is None:
            raise bad_request(f"map does not contain declared merge key: {merge_key}")
        if item.get(_DIRECTIVE) == "delete":
            result = [old for old in result if _key_of(old, merge_key) != key]
            continue
        at = next((i for i, old in enumerate(result) if _key_of(old, merge_key) == key), None)
        if at is None:
            result.append(_merge_map({}, item, field.type))
        else:
            result[at] = _merge_map(result[at], item, field.type)
    return _in_order(result, original, merge_key, order)


def _in_order(items: list[Any], live: list[Any], merge_key: str, order: Any) -> list[Any]:
    """``items`` in the order a ``$setElementOrder`` asks for.

    Items it does not name (another writer's) keep their order among themselves, and their place in the live list where
    the two orders allow that: upstream's mergeSortedSlice.
    """
    if not isinstance(order, list):
        return items
    wanted = [_key_of(item, merge_key) for item in order]
    named = [item for item in items if _key_of(item, merge_key) in wanted]
    named.sort(key=lambda item: wanted.index(_key_of(item, merge_key)))
    others = [item for item in items if _key_of(item, merge_key) not in wanted]
    live_keys = [_key_of(item, merge_key) for item in live]
    result: list[Any] = []
    while named and others:
        left, right = _key_of(others[0], merge_key), _key_of(named[0], merge_key)
        other_first = left in live_keys and right in live_keys and live_keys.index(left) < live_keys.index(right)
        result.append(others.pop(0) if other_first else named.pop(0))
    return [*result, *named, *others]
