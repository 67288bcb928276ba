"""Waking the other processes that share one SQLite file.

Each process binds a datagram socket in a folder that belongs to the file; who has committed
something that others wait for sends its topics to every socket there. A lost datagram costs no
more than one slow poll. Where the system has no such sockets, only the polls remain.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

_DATAGRAM = 32_000


class WakeSocket:
    """This process's ear, and its voice to the others at the same file."""

    def __init__(self, database: Path, hear: Callable[[str], None]) -> None:
        self._database = database
        self._name = f"{uuid.uuid4().hex[:12]}.sock"
        self._hear = hear
        self._socket: socket.socket | None = None

    @cached_property
    def _folder(self) -> Path:
        mark = hashlib.sha256(str(self._database.resolve()).encode()).hexdigest()[:16]
        user = os.getuid() if hasattr(os, "getuid") else 0
        return Path(tempfile.gettempdir()) / f"aura-{user}-{mark}"

    @property
    def _path(self) -> Path:
        return self._folder / self._name

    def open(self) -> None:
        """Bind and listen on the running event loop."""
        if not hasattr(socket, "AF_UNIX"):
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._folder.stat().st_uid != os.getuid():
            return  # someone else made the folder: its messages are not to be trusted
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ear.setblocking(False)
        ear.bind(str(self._path))
        asyncio.get_running_loop().add_reader(ear.fileno(), self._read)
        self._socket = ear

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
            self._path.unlink(missing_ok=True)

    def tell(self, topics: Iterable[str]) -> None:
        """Send the topics to every other process at this file; never blocks, never fails: what
        they are about is durable already, and whoever does not hear of it looks later."""
        if self._socket is None:
            return
        messages = list(_pack(topics))
        with contextlib.suppress(OSError):  # somebody has removed the folder
            for path in self._folder.iterdir():
                if path.name != self._name:
                    self._send(path, messages)

    def _send(self, path: Path, messages: list[bytes]) -> None:
        assert self._socket is not None  # noqa: S101  (only called while open)
        try:
            for message in messages:
                self._socket.sendto(message, str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(OSError):  # it is no socket
                path.unlink(missing_ok=True)  # its process is gone
        except OSError:
            return  # its buffer is full, so it is awake anyway; or it is nobody

    def _read(self) -> None:
        assert self._socket is not None  # noqa: S101
        with contextlib.suppress(BlockingIOError):
            while True:
                for topic in self._socket.recv(65_536).decode().split("\n"):
                    self._hear(unquote(topic))


def _pack(topics: Iterable[str]) -> Iterable[bytes]:
    """Topics joined into as few datagrams as fit."""
    message = b""
    for topic in topics:
        line = topic.replace("%", "%25").replace("\n", "%0A").encode()
        if message and len(message) + len(line) >= _DATAGRAM:
            yield message
            message = b""
        message = message + b"\n" + line if message else line
    if message:
        yield message
