"""The topology document of ``up``: a file or a mapping, and what was said beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from netsim.model.config import parse_config
from netsim.model.errors import InputError, UsageError

DEFAULT_NODES = 3


def make_config(
    name: str | None,
    *,
    nodes: int | None = None,
    proxy_mode: str | None = None,
    pod_network: str | None = None,
    ip_family: str | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The topology document of ``up``: the file's keys, then what was said beside it.

    Raises InputError if the file is wrong, UsageError if what was said beside it is.
    """
    document, where = _read_config(config)
    said = {
        "name": name,
        "nodes": nodes,
        "proxyMode": proxy_mode,
        "podNetwork": pod_network,
        "ipFamily": ip_family,
    }
    from_file = _complete(document)
    document = _complete(document | {key: value for key, value in said.items() if value is not None})
    try:
        parse_config(document, where)
    except InputError as error:
        parse_config(from_file, where)  # raises if it is the file's own fault
        raise UsageError(error.message, hint=error.hint or "netsim up --help") from error
    return document


def _complete(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": "netsim", "nodes": DEFAULT_NODES, **document}


def _read_config(config: str | Path | Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
    if config is None:
        return {}, ""
    if isinstance(config, Mapping):
        return dict(config), ""
    try:
        document = yaml.safe_load(Path(config).read_text())
    except OSError as error:
        raise InputError(f"cannot read the topology: {error.strerror}", where=str(config)) from error
    except UnicodeDecodeError as error:
        raise InputError(f"the topology is no text: {error.reason}", where=str(config)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"broken YAML: {error.problem}", where=f"{config}:{line}") from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise InputError("the topology must be a mapping", where=str(config), hint="see docs/configuration.md")
    return document, str(config)
