"""`aura serve --tls-cert --tls-key`: modern TLS, renewed without a restart."""

from __future__ import annotations

import contextlib
import datetime
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.cli.conftest import Aura, Process, Spawn


def write_pair(folder: Path, name: str = "localhost", *, passphrase: bytes = b"") -> None:
    """A self-signed certificate for localhost, and its key: cert.pem and key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase)
            if passphrase
            else serialization.NoEncryption(),
        )
    )


def trusting(cert: Path) -> httpx.Client:
    return httpx.Client(verify=ssl.create_default_context(cafile=cert), trust_env=False, timeout=60)


def serving(spawn: Spawn, *more: str) -> tuple[Process, str]:
    pair = ("--tls-cert", "cert.pem", "--tls-key", "key.pem")
    process = spawn("serve", "research:app", "--port", "0", "--json", *pair, *more)
    url = process.line()["url"]
    assert url.startswith("https://127.0.0.1:")
    return process, url.replace("127.0.0.1", "localhost")


def serial_of(url: str) -> int:
    port = int(url.rpartition(":")[2])
    pem = ssl.get_server_certificate(("localhost", port), timeout=60)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_certificate_is_served_and_read_again(project: Path, spawn: Spawn) -> None:
    write_pair(project)
    process, url = serving(spawn)
    with trusting(project / "cert.pem") as http:
        assert http.get(f"{url}/healthz").json() == {"status": "ok"}
        assert http.post(
            f"{url}/api/v1/runs", json={"workflow": "research", "input": {"text": "abc"}}
        ).status_code == 201  # fmt: skip
        first = serial_of(url)

        (project / "key.pem").write_text("no key")  # half of a renewal
        process.popen.send_signal(signal.SIGHUP)
        until(lambda: "the certificate stays as it was" in process.log.read_text())
        assert serial_of(url) == first

        write_pair(project)
        process.popen.send_signal(signal.SIGHUP)
        until(lambda: "the certificate was read again" in process.log.read_text())
        assert serial_of(url) != first
        assert http.get(f"{url}/healthz").status_code == 200  # connections that are there stay
    with trusting(project / "cert.pem") as http:
        assert http.get(f"{url}/readyz").status_code == 200
    with pytest.raises(httpx.HTTPError):
        httpx.get(url.replace("https", "http"), trust_env=False, timeout=60)
    assert process.stop(signal.SIGTERM) == 0


def test_old_versions_of_tls_are_refused(project: Path, spawn: Spawn) -> None:
    write_pair(project)
    process, url = serving(spawn)
    port = int(url.rpartition(":")[2])
    for version, accepted in (
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ):
        context = ssl.create_default_context(cafile=project / "cert.pem")
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else it is the client that refuses
        with (
            contextlib.nullcontext()
            if accepted
            else pytest.warns(DeprecationWarning, match="TLSv1_1")
        ):
            context.minimum_version = context.maximum_version = version
        with socket.create_connection(("localhost", port), timeout=60) as plain:
            if accepted:
                with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
                    assert wrapped.version() == version.name.replace("_", ".")
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    context.wrap_socket(plain, server_hostname="localhost")
    assert process.stop(signal.SIGTERM) == 0


def test_files_that_cannot_be_used_are_refused_in_a_sentence(aura: Aura, project: Path) -> None:
    serve = ("serve", "research:app", "--port", "0")
    write_pair(project)
    alone = aura(*serve, "--tls-cert", "cert.pem")
    assert alone.code != 0
    assert "--tls-key is missing" in alone.err
    gone = aura(*serve, "--tls-cert", "cert.pem", "--tls-key", "gone.pem")
    assert gone.code != 0
    assert "gone.pem cannot be read" in gone.err
    other = project / "other"
    other.mkdir()
    write_pair(other)
    mixed = aura(*serve, "--tls-cert", "cert.pem", "--tls-key", "other/key.pem")
    assert mixed.code != 0
    assert "cannot be used together" in mixed.err
    write_pair(other, passphrase=b"secret")
    sealed = aura(*serve, "--tls-cert", "other/cert.pem", "--tls-key", "other/key.pem")
    assert sealed.code != 0
    assert "passphrase" in sealed.err
