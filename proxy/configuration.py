"""KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1: upstream's configuration file."""

from typing import Any

from proxy.config import ProxyConfig


def describe_config(config: ProxyConfig) -> dict[str, Any]:
    """What /configz shows."""
    return {"mode": config.mode}
