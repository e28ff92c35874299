"""JSON merge patch, RFC 7386."""

from typing import Any

from netsim.apiserver.request import prune


def merge_patch(document: Any, patch: Any) -> Any:
    """``document`` with ``patch`` applied: null deletes, objects merge, anything else replaces (RFC 7386, section 2).

    The result shares unchanged parts with ``document`` and nothing with ``patch``.
    """
    if type(patch) is not dict:
        return prune(patch)
    result = dict(document) if type(document) is dict else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif type(value) is dict:
            result[key] = merge_patch(result.get(key), value)
        else:
            result[key] = prune(value)
    return result
