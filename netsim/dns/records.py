"""What cluster DNS answers, as a pure function of Services, EndpointSlices and Namespaces.

Follows the Kubernetes DNS-Based Service Discovery specification 1.1.0 (kubernetes/dns docs/specification.md)
and, where that leaves a choice, CoreDNS's kubernetes plugin with kubeadm's Corefile (``pods insecure``, TTL
5):

- ``NAME.NS.svc.DOMAIN``: the ClusterIPs; of a headless Service the ready endpoints, NXDOMAIN when there are
none;
- ``HOST.NAME.NS.svc.DOMAIN``: one endpoint, by its hostname or by its address written ``10-244-0-7``;
- ``_PORT._PROTOCOL.NAME.NS.svc.DOMAIN``: SRV, for headless Services one for each endpoint;
- ``10-244-0-7.NS.pod.DOMAIN``: the address in the name, whether or not such a pod exists;
- PTR for ClusterIPs, else for endpoints; ExternalName is a CNAME, followed as far as it stays in the cluster.

Names outside DOMAIN do not exist (NXDOMAIN): there is no upstream, for nothing may leave the sandbox, so
this server is the root of the names in it. SERVFAIL or REFUSED would be read by resolvers as "try again":
glibc then reports a mistyped Service as "Temporary failure in name resolution", because the bare name is the
last one its search list tries.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from netsim.model.objects import Object

TTL_S = 5  # CoreDNS's kubernetes plugin; kubeadm's Corefile says 30
VERSION_TTL_S = 28800
SPEC_VERSION = "1.1.0"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
MAX_CNAMES = 8  # a chain of ExternalName Services may be a ring

NOERROR, NXDOMAIN = 0, 3  # RFC 1035 4.1.1


@dataclass(frozen=True, slots=True)
class Srv:
    """RFC 2782."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Soa:
    """RFC 1035 3.3.13. ``minimum`` is how long a "no" may be kept (RFC 2308)."""

    mname: str
    rname: str
    serial: int
    refresh: int = 7200
    retry: int = 1800
    expire: int = 86400
    minimum: int = TTL_S


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record. ``data`` is an address, a name or a text, or Srv or Soa. Names have no final
    dot."""

    name: str
    type: str
    data: "str | Srv | Soa"
    ttl_s: int = TTL_S


@dataclass(frozen=True, slots=True)
class Answer:
    """The sections of a reply. ``outside`` says that the name lies outside the cluster's domain."""

    rcode: int
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    outside: bool = False


class View(Protocol):
    """What the API holds now."""

    @property
    def serial(self) -> int:
        """A number that grows with every change, for the SOA."""
        ...

    def namespace_exists(self, name: str) -> bool: ...
    def service(self, namespace: str, name: str) -> Object | None: ...
    def slices(self, namespace: str, service: str) -> Iterable[Object]: ...
    def services_at(self, address: str) -> Iterable[Object]: ...
    def slices_at(self, address: str) -> Iterable[Object]: ...


@dataclass(frozen=True, slots=True)
class _Target:
    """One address and port that a name stands for. ``host`` is the endpoint's label, "" for a ClusterIP."""

    address: str
    port: int | None
    host: str = ""


def answer(name: str, record_type: str, view: View, *, domain: str, dns_ips: Sequence[str]) -> Answer:
    """The answer to a question for ``name`` (a final dot and upper case do not matter) of ``record_type``."""
    labels = tuple(name.lower().rstrip(".").split(".")) if name.rstrip(".") else ()
    zone = tuple(domain.lower().split("."))
    if labels[-len(zone) :] == zone:
        return _Zone(view, zone, dns_ips).answer(labels, record_type)
    address = _reverse_address(labels)
    if address is not None:
        return _answer_reverse(labels, address, record_type, view, domain)
    soa = Record("", "SOA", _soa("", view))
    if not labels:  # the root: it exists, and has nothing but its SOA
        return Answer(NOERROR, answers=(soa,)) if record_type == "SOA" else Answer(NOERROR, authority=(soa,))
    return Answer(NXDOMAIN, authority=(soa,), outside=True)


class _Zone:
    """The names below the cluster's domain."""

    def __init__(self, view: View, zone: tuple[str, ...], dns_ips: Sequence[str]) -> None:
        self.view = view
        self.zone = zone
        self.domain = ".".join(zone)
        self.dns_ips = dns_ips

    def answer(self, labels: tuple[str, ...], record_type: str) -> Answer:
        answers: list[Record] = []
        seen: set[tuple[str, ...]] = set()
        while True:
            found = self._answer_one(labels, record_type)
            answers += found.answers
            last = found.answers[-1] if found.answers else None
            if last is None or last.type != "CNAME" or record_type in ("CNAME", "ANY"):
                break
            seen.add(labels)
            labels = tuple(str(last.data).lower().split("."))
            if labels[-len(self.zone) :] != self.zone or labels in seen or len(seen) > MAX_CNAMES:
                # The rest is outside, or a ring. NOERROR and the CNAME alone, where RFC 6604 has the rcode
                # of the last name: an outside name is unknown here rather than known not to exist.
                return Answer(NOERROR, tuple(answers), outside=True)
        return Answer(found.rcode, tuple(answers), found.authority, found.additional)

    def _answer_one(self, labels: tuple[str, ...], record_type: str) -> Answer:
        below = labels[: -len(self.zone)]
        name = ".".join(labels)
        match below:
            case ():
                return self._apex(record_type)
            case ("dns-version",):
                record = Record(name, "TXT", SPEC_VERSION, VERSION_TTL_S)
                return self._records([record] if record_type in ("TXT", "ANY") else [])
            case ("ns", "dns"):
                return self._addresses(name, self.dns_ips, record_type)
            case ("svc",) | ("pod",) | ("dns",):
                return self._nothing()
            case (namespace, "svc" | "pod"):
                return self._nothing() if self.view.namespace_exists(namespace) else self._unknown()
            case (address, namespace, "pod"):
                return self._pod(name, address, namespace, record_type)
            case (*rest, namespace, "svc") if len(rest) <= 3:
                return self._service(name, rest, namespace, record_type)
        return self._unknown()

    def _apex(self, record_type: str) -> Answer:
        name_server = f"ns.dns.{self.domain}"
        glue = tuple(Record(name_server, _type_of(address), address) for address in self.dns_ips)
        if record_type == "SOA":
            return Answer(NOERROR, (self._soa(),))
        if record_type == "NS":
            return Answer(NOERROR, (Record(self.domain, "NS", name_server),), additional=glue)
        return self._nothing()

    def _pod(self, name: str, label: str, namespace: str, record_type: str) -> Answer:
        address = _parse_dashed(label)
        if address is None or not self.view.namespace_exists(namespace):
            return self._unknown()
        return self._addresses(name, [str(address)], record_type)

    def _service(self, name: str, rest: list[str], namespace: str, record_type: str) -> Answer:
        service = self.view.service(namespace, rest[-1])
        if service is None:
            return self._unknown()
        spec = service.get("spec") or {}
        host = rest[0] if len(rest) == 2 else ""
        port, protocol = (part.removeprefix("_") for part in rest[:2]) if len(rest) == 3 else ("", "")
        if spec.get("type") == "ExternalName":
            if len(rest) > 1:
                return self._unknown()
            return self._external_name(name, str(spec.get("externalName", "")), record_type)
        if host or _is_headless(spec):
            targets = list(self._endpoints(service, host, port, protocol))
        else:
            targets = [
                _Target(address, int(p.get("port", 0)))
                for p in spec.get("ports") or ()
                if _port_matches(p, port, protocol)
                for address in spec.get("clusterIPs") or (spec.get("clusterIP"),)
                if address
            ]
        if not targets:
            return self._unknown()
        if record_type == "SRV":
            return self._srv(name, ".".join((*rest[-1:], namespace, "svc", self.domain)), targets)
        return self._addresses(name, [target.address for target in targets], record_type)

    def _external_name(self, name: str, external: str, record_type: str) -> Answer:
        external = external.rstrip(".")
        try:  # the API takes an address for a name here; a CNAME to it would resolve nowhere
            ip_address(external)
        except ValueError:
            return Answer(NOERROR, (Record(name, "CNAME", external),))
        return self._addresses(name, [external], record_type)

    def _endpoints(self, service: Object, host: str, port: str, protocol: str) -> Iterator[_Target]:
        """The ready endpoints; an EndpointSlice calls them ready too when the Service publishes not-ready
        ones."""
        metadata = service["metadata"]
        publish = bool((service.get("spec") or {}).get("publishNotReadyAddresses"))
        for endpoint_slice in self.view.slices(metadata["namespace"], metadata["name"]):
            ports = endpoint_slice.get("ports") or []
            matching = [p.get("port") for p in ports if _port_matches(p, port, protocol)]
            if not ports and not port:
                matching = [None]  # a headless Service may have no port: addresses, but no SRV
            if not matching:
                continue
            for endpoint in endpoint_slice.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is False and not publish:
                    continue
                for address in endpoint.get("addresses") or ():
                    label = endpoint_label(endpoint, address)
                    if not host or label.lower() == host:
                        yield from (_Target(address, number, label) for number in matching)

    def _srv(self, name: str, service_name: str, targets: list[_Target]) -> Answer:
        usable = list(dict.fromkeys(target for target in targets if target.port is not None))
        if not usable:
            return self._nothing()
        weight = max(1, 100 // len(usable))  # CoreDNS shares 100 out evenly
        answers: dict[Record, None] = {}
        additional: dict[Record, None] = {}
        for target in usable:
            host = f"{target.host}.{service_name}" if target.host else service_name
            answers[Record(name, "SRV", Srv(0, weight, target.port or 0, host))] = None
            additional[Record(host, _type_of(target.address), target.address)] = None
        return Answer(NOERROR, tuple(answers), additional=tuple(additional))

    def _addresses(self, name: str, addresses: Collection[str], record_type: str) -> Answer:
        wanted = dict.fromkeys(a for a in addresses if record_type in (_type_of(a), "ANY"))
        return self._records([Record(name, _type_of(address), address) for address in wanted])

    def _records(self, records: list[Record]) -> Answer:
        return Answer(NOERROR, tuple(records)) if records else self._nothing()

    def _nothing(self) -> Answer:
        """The name exists, but has no such record (NODATA)."""
        return Answer(NOERROR, authority=(self._soa(),))

    def _unknown(self) -> Answer:
        return Answer(NXDOMAIN, authority=(self._soa(),))

    def _soa(self) -> Record:
        return Record(self.domain, "SOA", _soa(self.domain, self.view))


def slice_keys(endpoint_slice: Object) -> list[str]:
    """``NAMESPACE/SERVICE`` of the Service a slice belongs to: the key of an index."""
    metadata = endpoint_slice["metadata"]
    service = (metadata.get("labels") or {}).get(SERVICE_NAME_LABEL)
    return [f"{metadata['namespace']}/{service}"] if service else []


def endpoint_label(endpoint: Object, address: str) -> str:
    """The label of an endpoint below its Service: its hostname, else its address with dashes."""
    return str(endpoint.get("hostname") or address.replace(".", "-").replace(":", "-"))


def _answer_reverse(
    labels: tuple[str, ...], address: IPv4Address | IPv6Address, record_type: str, view: View, domain: str
) -> Answer:
    name, text = ".".join(labels), str(address)
    soa_owner = ".".join(labels[-2:])
    soa = Record(soa_owner, "SOA", _soa(soa_owner, view))
    names: list[str] = []
    for service in view.services_at(text):
        metadata = service["metadata"]
        names.append(f"{metadata['name']}.{metadata['namespace']}.svc.{domain}")
        break  # one address is of one Service
    else:
        names += _endpoint_names(text, view, domain)
    if not names:
        return Answer(NXDOMAIN, authority=(soa,))
    if record_type not in ("PTR", "ANY"):
        return Answer(NOERROR, authority=(soa,))
    return Answer(NOERROR, tuple(Record(name, "PTR", target) for target in dict.fromkeys(names)))


def _endpoint_names(address: str, view: View, domain: str) -> Iterator[str]:
    for endpoint_slice in view.slices_at(address):
        metadata = endpoint_slice["metadata"]
        service = (metadata.get("labels") or {}).get(SERVICE_NAME_LABEL)
        for endpoint in endpoint_slice.get("endpoints") or ():
            ready = (endpoint.get("conditions") or {}).get("ready") is not False
            if service and ready and address in (endpoint.get("addresses") or ()):
                yield f"{endpoint_label(endpoint, address)}.{service}.{metadata['namespace']}.svc.{domain}"


def _reverse_address(labels: tuple[str, ...]) -> IPv4Address | IPv6Address | None:
    """The address of ``7.0.244.10.in-addr.arpa`` or of 32 nibbles and ``ip6.arpa`` (RFC 1035 3.5, RFC 3596
    2.5)."""
    try:
        if labels[-2:] == ("in-addr", "arpa") and len(labels) == 6:
            return IPv4Address(".".join(reversed(labels[:4])))
        if labels[-2:] == ("ip6", "arpa") and len(labels) == 34:
            return IPv6Address(int("".join(reversed(labels[:32])), 16))
    except ValueError:
        return None
    return None


def _parse_dashed(label: str) -> IPv4Address | IPv6Address | None:
    """``10-244-0-7`` as an address, as in the names of pods; ``fd00--1`` likewise."""
    separator = "." if label.count("-") == 3 and "--" not in label else ":"
    try:
        return ip_address(label.replace("-", separator))
    except ValueError:
        return None


def _port_matches(port: Object, name: str, protocol: str) -> bool:
    """Whether a port of a Service or slice is the one asked for; no name and no protocol mean any."""
    return (not name or str(port.get("name") or "").lower() == name) and (
        not protocol or str(port.get("protocol") or "TCP").lower() == protocol
    )


def _is_headless(spec: Object) -> bool:
    return spec.get("clusterIP") == "None"


def _type_of(address: str) -> str:
    return "AAAA" if ":" in address else "A"


def _soa(owner: str, view: View) -> Soa:
    suffix = f".{owner}" if owner else ""
    return Soa(f"ns.dns{suffix}", f"hostmaster{suffix}", view.serial & 0xFFFFFFFF)
