"""As much of JSON Schema (draft 2020-12) as netsim's own schemas use; a keyword it does not know is an error."""

from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
}
_OF_OBJECTS = {"required", "properties", "additionalProperties", "propertyNames"}
_SAID = {"$schema", "$defs", "title", "description"}


def find_faults(
    schema: Mapping[str, Any], value: Any, root: Mapping[str, Any] | None = None, at: str = ""
) -> list[str]:
    """What is wrong with ``value``, each with where; nothing if it is as the schema says."""
    return list(_faults(schema, value, root or schema, at or "$"))


def _faults(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any], at: str) -> Iterator[str]:
    for word, content in schema.items():
        if (word in _OF_OBJECTS and not isinstance(value, dict)) or (word == "items" and not isinstance(value, list)):
            continue  # says nothing about other types (JSON Schema Validation, 6)
        match word:
            case "$ref":
                target: Any = root
                for step in content.removeprefix("#/").split("/"):
                    target = target[step]
                yield from _faults(target, value, root, at)
            case "oneOf":
                fitting = [one for one in content if not find_faults(one, value, root, at)]
                if len(fitting) != 1:
                    all_faults = [find_faults(one, value, root, at) for one in content]
                    yield f"{at}: fits {len(fitting)} of {len(content)}: {all_faults}"
            case "type":
                if isinstance(value, bool) or not isinstance(value, _TYPES[content]):
                    yield f"{at}: {value!r} is no {content}"
            case "enum":
                if value not in content:
                    yield f"{at}: {value!r} is none of {content}"
            case "minimum":
                if isinstance(value, int | float) and value < content:
                    yield f"{at}: {value} is less than {content}"
            case "maximum":
                if isinstance(value, int | float) and value > content:
                    yield f"{at}: {value} is more than {content}"
            case "required":
                yield from (f"{at}: no {name}" for name in content if name not in value)
            case "properties":
                for name in content.keys() & value.keys():
                    yield from _faults(content[name], value[name], root, f"{at}.{name}")
            case "additionalProperties":
                for name in value.keys() - schema.get("properties", {}).keys():
                    if content is False:
                        yield f"{at}: unknown {name}"
                    else:
                        yield from _faults(content, value[name], root, f"{at}.{name}")
            case "propertyNames":
                for name in value:
                    yield from _faults(content, name, root, f"{at}: name {name}")
            case "items":
                for number, item in enumerate(value):
                    yield from _faults(content, item, root, f"{at}[{number}]")
            case _:
                if word not in _SAID:
                    raise NotImplementedError(word)
