"""Every field of KubeProxyConfiguration either changes what the proxy does or is named in the documentation as one that
does not.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from netsim.model.config import PROXY_MODES
from proxy.configuration import API_VERSION, KIND, default_document, get_field
from proxy.options import Options, parse_options

DOCS = Path(__file__).parents[3] / "docs/netsim-proxy.md"
GROUPS = {name for name, value in default_document().items() if isinstance(value, dict) and value}
VALUES: dict[str, Any] = {
    "featureGates": {"Some": True},
    "logging": {"format": "json"},
    "bindAddress": "10.1.2.3",
    "healthzBindAddress": "0.0.0.0:1256",
    "metricsBindAddress": "127.0.0.1:1249",
    "detectLocalMode": "NodeCIDR",
    "clusterCIDR": "10.9.0.0/16",
    "ipvs.scheduler": "sh",
    "portRange": "30000-30100",
}
OF_TYPE: dict[type, Any] = {str: "some", int: 9, float: 7.5, list: ["10.9.0.0/16"]}


def fields() -> Iterator[str]:
    for name, value in default_document().items():
        if name in GROUPS:
            yield from (f"{name}.{inner}" for inner in value)
        elif name not in ("apiVersion", "kind", "mode"):
            yield name


def other_value(path: str) -> Any:
    default = get_field(default_document(), path)
    if path in VALUES:
        return VALUES[path]
    if isinstance(default, bool):
        return not default
    if isinstance(default, str) and re.fullmatch(r"[\dhms.]*\ds", default):
        return "27s"
    return OF_TYPE[type(default)]


def understood(path: Path, mode: str, field: str = "") -> tuple[object, ...]:
    """What the program makes of a file that says nothing but ``field``."""
    document: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND, "mode": mode, "hostnameOverride": "node"}
    if field:
        group, dot, name = field.partition(".")
        document[group] = {name: other_value(field)} if dot else other_value(field)
    path.write_text(yaml.safe_dump(document))
    options: Options = parse_options(["--config", str(path)])
    return (
        options.config,
        options.kubeconfig,
        options.node_name,
        options.node_ip,
        options.oom_score_adj,
        options.request_rate,
    )


def documented() -> set[str]:
    """The fields of the sentence that begins with "Taken and without effect"."""
    sentence = DOCS.read_text().partition("Taken and without effect")[2].partition(".\n")[0]
    return set(re.findall(r"`([^`]+)`", sentence))


@pytest.mark.parametrize("field", list(fields()))
def test_it_has_an_effect_or_is_said_to_have_none(field: str, tmp_path: Path) -> None:
    file = tmp_path / "config"
    effect = any(understood(file, mode) != understood(file, mode, field) for mode in PROXY_MODES)
    named = bool({field, field.partition(".")[0]} & documented())
    assert effect is not named, f"{field}: {'has an effect' if effect else 'has none'}, and docs say otherwise"
