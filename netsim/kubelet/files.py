"""The files every container sees: /etc/hosts, /etc/resolv.conf, /etc/hostname. Pure.

Source: kubernetes pkg/kubelet/kubelet_pods.go (hostsFileContent, GeneratePodHostNameAndDomain), network/dns/dns.go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netsim.model.config import ClusterConfig

HOSTNAME_MAX_BYTES = 63  # truncatePodHostnameIfNeeded; the kernel itself allows 64


@dataclass(frozen=True, slots=True)
class Resolver:
    """The content of resolv.conf."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def render(self) -> str:
        lines = [f"nameserver {server}" for server in self.nameservers]
        if self.searches:
            lines.append(f"search {' '.join(self.searches)}")
        if self.options:
            lines.append(f"options {' '.join(self.options)}")
        return "\n".join(lines) + "\n"


def parse_resolver(text: str) -> Resolver:
    """The parts of a resolv.conf (resolv.conf(5)); the last ``search`` or ``domain`` line wins."""
    servers: list[str] = []
    searches: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word == "nameserver" and rest:
            servers.append(rest[0])
        elif word in ("search", "domain"):
            searches = tuple(rest)
        elif word == "options":
            options += rest
    return Resolver(tuple(servers), searches, tuple(options))


def plan_resolver(pod: Mapping[str, Any], config: ClusterConfig, machine: Resolver) -> Resolver:
    """resolv.conf of ``pod`` by its dnsPolicy and dnsConfig; ``machine`` is the machine's own, for Default."""
    spec = pod.get("spec") or {}
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    if policy == "None":
        base = Resolver()
    elif policy == "Default" or not config.dns:
        base = machine
    else:
        domain = config.dns_domain
        searches = (f"{pod['metadata']['namespace']}.svc.{domain}", f"svc.{domain}", domain)
        extra = tuple(search for search in machine.searches if search not in searches)
        base = Resolver(config.dns_ips, searches + extra, ("ndots:5",))
    return _merge_dns_config(base, spec.get("dnsConfig") or {})


def _merge_dns_config(base: Resolver, extra: Mapping[str, Any]) -> Resolver:
    if not extra:
        return base
    options = {option.partition(":")[0]: option for option in base.options}
    for option in extra.get("options") or ():
        value = option.get("value")
        options[option["name"]] = option["name"] if value in (None, "") else f"{option['name']}:{value}"
    return Resolver(
        tuple(dict.fromkeys((*base.nameservers, *(extra.get("nameservers") or ())))),
        tuple(dict.fromkeys((*base.searches, *(extra.get("searches") or ())))),
        tuple(options.values()),
    )


def choose_hostname(pod: Mapping[str, Any], node: str) -> str:
    """What ``hostname`` says in the pod: spec.hostname, else the pod's name; the node's with hostNetwork."""
    spec = pod.get("spec") or {}
    if spec.get("hostNetwork"):
        return node
    name = str(spec.get("hostname") or pod["metadata"]["name"])
    return name[:HOSTNAME_MAX_BYTES].rstrip("-.")


def render_hosts(pod: Mapping[str, Any], ips: Sequence[str], hostname: str, domain: str) -> str:
    """/etc/hosts of ``pod``; with hostname and subdomain its fully qualified name is there too."""
    spec = pod.get("spec") or {}
    lines = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
    ]
    subdomain = spec.get("subdomain")
    names = hostname
    if subdomain:
        names = f"{hostname}.{subdomain}.{pod['metadata']['namespace']}.svc.{domain}\t{hostname}"
    lines += [f"{ip}\t{names}" for ip in ips]
    aliases = spec.get("hostAliases") or ()
    if aliases:
        lines.append("\n# Entries added by HostAliases.")
        lines += [f"{alias['ip']}\t" + "\t".join(alias.get("hostnames") or ()) for alias in aliases]
    return "\n".join(lines) + "\n"
