"""The topology document of ``up``: a file or a mapping, and what was said beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netsim.client.manifest_files import read_text
from netsim.model.config import parse_config
from netsim.model.errors import InputError, UsageError
from netsim.model.manifests import parse_documents

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
    documents = parse_documents(read_text(Path(config)), str(config))
    if len(documents) > 1:
        raise InputError("a topology is one YAML document, and here begins another", where=documents[1].position_of())
    document = documents[0].value if documents and documents[0].value is not None else {}
    if not isinstance(document, dict):
        raise InputError("the topology must be a mapping", where=str(config), hint="see docs/configuration.md")
    return document, str(config)
