"""The certificates of one cluster's API, and the kubeconfig that carries them to its clients.

A certificate authority is made for each cluster and forgotten: its key is never written, so nobody can make
another client.
EC P-256, because a key takes 0.1 ms to make (RSA: 100 ms and more).
"""

import json
import os
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID_BEFORE = timedelta(hours=1)  # clocks differ: a container's may be behind
_VALID_FOR = timedelta(days=365)
# What the server is called: loopback only, and the names pods use for it.
_SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
)
_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The server's PEM files (OpenSSL reads keys from files only), and the one client's credentials."""

    ca: Path  # clients must have a certificate of this authority
    certificate: Path
    key: Path
    ca_pem: bytes
    client_certificate: bytes
    client_key: bytes


def _name(common_name: str, organization: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _VALID_BEFORE)
        .not_valid_after(now + _VALID_FOR)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _make_ca(cluster: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"netsim {cluster}")
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _make_leaf(
    subject: x509.Name,
    usage: x509.ObjectIdentifier,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    names: Iterable[x509.GeneralName] = (),
) -> tuple[bytes, bytes]:
    """A certificate and its key, as PEM, good for one purpose."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(subject, ca.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    alternative = list(names)
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    return _pem(builder.sign(ca_key, hashes.SHA256())), _key_pem(key)


def make_certificates(directory: Path, *, cluster: str = "netsim", names: Iterable[str] = ()) -> TlsFiles:
    """Make an authority, the server's certificate and one client's; write the server's into ``directory`` (mode 0700).

    names: more DNS names of the server.
    """
    ca, ca_key = _make_ca(cluster)
    called: list[x509.GeneralName] = [x509.DNSName(name) for name in (*_SERVER_NAMES, *names)]
    called += [x509.IPAddress(address) for address in _LOOPBACK]
    server, server_key = _make_leaf(_name("kube-apiserver"), ExtendedKeyUsageOID.SERVER_AUTH, ca, ca_key, called)
    # Upstream's name for the one group that may do everything.
    admin = _name("netsim-admin", "system:masters")
    client, client_key = _make_leaf(admin, ExtendedKeyUsageOID.CLIENT_AUTH, ca, ca_key)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = (directory / "ca.crt", directory / "apiserver.crt", directory / "apiserver.key")
    for path, content in zip(paths, (_pem(ca), server, server_key), strict=True):
        write_private(path, content)
    return TlsFiles(*paths, ca_pem=_pem(ca), client_certificate=client, client_key=client_key)


def render_kubeconfig(server: str, cluster: str, tls: TlsFiles) -> dict[str, Any]:
    """A kubeconfig that inlines its certificates. server: ``https://127.0.0.1:PORT``.

    Source: https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/
    """
    name = cluster if cluster == "netsim" else f"netsim-{cluster}"

    def data(pem: bytes) -> str:
        return b64encode(pem).decode()

    user = {"client-certificate-data": data(tls.client_certificate), "client-key-data": data(tls.client_key)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": data(tls.ca_pem)}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
        "current-context": name,
    }


def write_kubeconfig(path: Path, server: str, cluster: str, tls: TlsFiles) -> None:
    """Write the kubeconfig with mode 0600: whoever reads it runs commands as the cluster's owner.

    JSON, which is YAML too: every reader takes it, and writing it needs no YAML library.
    """
    write_private(path, json.dumps(render_kubeconfig(server, cluster, tls), indent=2).encode() + b"\n")


def write_private(path: Path, content: bytes) -> None:
    """Write a file nobody else may read (mode 0600), never half of it: it appears under its name complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(content)
    os.replace(temporary, path)
