"""JSON patch, RFC 6902, over JSON pointers, RFC 6901."""

from typing import Any

from netsim.model.errors import ApiError
from netsim.model.objects import copy_object


def _fail(message: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {message}")


def parse_pointer(pointer: str) -> list[str]:
    """The tokens of a JSON pointer (RFC 6901, section 3). Raises ApiError 422."""
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise _fail(f"bad JSON pointer {pointer!r}")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _index(token: str, length: int) -> int:
    if not token.isdigit() or (len(token) > 1 and token[0] == "0") or int(token) >= length:
        raise _fail(f"index {token} is out of bounds")
    return int(token)


def _step(target: Any, token: str) -> Any:
    if isinstance(target, dict):
        if token not in target:
            raise _fail(f'path element "{token}" does not exist')
        return target[token]
    if isinstance(target, list):
        return target[_index(token, len(target))]
    raise _fail(f'path element "{token}" goes into a scalar')


def _find(document: Any, pointer: str) -> Any:
    for token in parse_pointer(pointer):
        document = _step(document, token)
    return document


def _add(document: Any, pointer: str, value: Any) -> Any:
    tokens = parse_pointer(pointer)
    if not tokens:
        return value
    target = document
    for token in tokens[:-1]:
        target = _step(target, token)
    last = tokens[-1]
    if isinstance(target, dict):
        target[last] = value
    elif isinstance(target, list):
        target.insert(len(target) if last == "-" else _index(last, len(target) + 1), value)
    else:
        raise _fail(f'path element "{last}" goes into a scalar')
    return document


def _remove(document: Any, pointer: str) -> Any:
    """Take out what is at the pointer and return it."""
    tokens = parse_pointer(pointer)
    if not tokens:
        raise _fail("the whole document cannot be removed")
    target = document
    for token in tokens[:-1]:
        target = _step(target, token)
    value = _step(target, tokens[-1])
    del target[tokens[-1] if isinstance(target, dict) else int(tokens[-1])]
    return value


def _same(left: Any, right: Any) -> bool:
    """JSON equality: true is not 1, although Python says so."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _apply_one(document: Any, operation: dict[str, Any]) -> Any:
    kind, path = operation.get("op"), operation.get("path", "")
    if kind in ("add", "replace", "test") and "value" not in operation:
        raise _fail(f'operation "{kind}" at {path} has no value')
    if kind == "add":
        return _add(document, path, copy_object(operation["value"]))
    if kind == "replace":
        if not parse_pointer(path):
            return copy_object(operation["value"])
        _remove(document, path)
        return _add(document, path, copy_object(operation["value"]))
    if kind == "remove":
        _remove(document, path)
        return document
    if kind == "move":
        if path.startswith(f"{operation.get('from', '')}/"):
            raise _fail(f"cannot move {operation.get('from')} into itself")
        return _add(document, path, _remove(document, operation.get("from", "")))
    if kind == "copy":
        return _add(document, path, copy_object(_find(document, operation.get("from", ""))))
    if kind == "test":
        if not _same(_find(document, path), operation["value"]):
            raise _fail(f"testing value {path} failed")
        return document
    raise _fail(f'unknown operation "{kind}"')


def json_patch(document: Any, patch: Any) -> Any:
    """A copy of ``document`` after all operations, or ApiError 422 and nothing done (RFC 6902, section 5)."""
    if not isinstance(patch, list) or not all(isinstance(operation, dict) for operation in patch):
        raise ApiError(400, "BadRequest", "a JSON patch is a list of operations (RFC 6902)")
    document = copy_object(document)
    for operation in patch:
        document = _apply_one(document, operation)
    return document
