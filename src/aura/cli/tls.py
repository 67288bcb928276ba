"""What stands before `aura serve`: TLS with a certificate from files, read again on SIGHUP, or
proxies that say who their clients are."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aura.cli.ports import url_of
from aura.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("aura.cli")


@dataclass(slots=True)
class Tls:
    """A certificate with its chain, and the key to it, both PEM. Raises ConfigError when they
    cannot be read or do not belong together."""

    cert: Path
    key: Path
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = _loaded(self.cert, self.key)

    def reload(self) -> None:
        """Use the files as they are now for connections from now on. Files that cannot be used are
        said, and change nothing."""
        try:
            _loaded(self.cert, self.key)  # what fails must fail on another context than ours
            self.context.load_cert_chain(self.cert, self.key)
        except (ConfigError, OSError) as error:
            log.error("the certificate stays as it was: %s", error)  # noqa: TRY400 (no traceback)
        else:
            log.info("the certificate was read again from %s", self.cert)

    @contextlib.contextmanager
    def reloaded(self) -> Iterator[None]:
        """SIGHUP reads the files again for as long as this lasts. On the main thread's loop."""
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is None:  # Windows
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(hangup, self.reload)
        try:
            yield
        finally:
            loop.remove_signal_handler(hangup)


@dataclass(frozen=True, slots=True)
class Front:
    """Whether this server speaks TLS itself, and the `proxies` (addresses or networks) whose
    X-Forwarded-For and X-Forwarded-Proto are believed."""

    tls: Tls | None = None
    proxies: tuple[str, ...] = ()

    def configure(self, config: uvicorn.Config) -> None:
        """Tell uvicorn, which loads its configuration here."""
        config.proxy_headers = bool(self.proxies)
        config.forwarded_allow_ips = list(self.proxies)
        config.load()
        if self.tls is not None:
            config.ssl = self.tls.context

    def url(self, listener: socket.socket) -> str:
        """Where a socket of this server listens."""
        url = url_of(listener)
        return url if self.tls is None else url.replace("http:", "https:", 1)

    def reloaded(self) -> AbstractContextManager[None]:
        """SIGHUP reads the certificate again for as long as this lasts."""
        return contextlib.nullcontext() if self.tls is None else self.tls.reloaded()


def trusted_proxies(texts: Iterable[str]) -> tuple[str, ...]:
    """Addresses and networks. Raises ConfigError for what is neither: a name may mean another
    machine tomorrow."""
    found = []
    for text in texts:
        try:
            found.append(str(ipaddress.ip_network(text)).removesuffix("/32").removesuffix("/128"))
        except ValueError as error:
            raise ConfigError(
                f"--trust-proxy is {text!r}", hint="Give an address or a network: 10.0.0.0/8"
            ) from error
    return tuple(found)


def tls_of(cert: Path | None, key: Path | None) -> Tls | None:
    """From the options; None when neither is given. Raises ConfigError when one is missing."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing = "--tls-cert" if cert is None else "--tls-key"
        raise ConfigError(f"{missing} is missing", hint="Give both files, certificate and key")
    return Tls(cert, key)


def _loaded(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for option, path in (("--tls-cert", cert), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{option} {path} cannot be read: {error.strerror}",
                hint="Give a PEM file that this user may read",
            ) from error
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"{cert} and {key} cannot be used together: {reason}",
            hint="Give a PEM certificate with its chain, and the key that belongs to it, without "
            "a passphrase",
        ) from error
    return context


def _no_password() -> str:
    raise ValueError("the key has a passphrase")
