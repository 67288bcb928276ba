"""Clients that do not read what they have asked for.

A server's writes wait while a client's buffers are full; that is all that is kept for it, and it
holds nobody else up. But a client that never reads again would keep its connection for good. So a
write that has waited for `PATIENCE` seconds ends the connection, unsent bytes included.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

from aura.gateway.client import Message, Send

log = logging.getLogger("aura.server")

PATIENCE = 60.0
"""Seconds without a byte taken after which a client is cut off; a proxy's usual time."""


def patient(send: Send, seconds: float | None = None) -> Send:
    """`send` for an HTTP response, which ends the connection of a client that does not read. Then
    the application hears of it as of any client that has gone."""
    cut = False

    async def within(message: Message) -> None:
        nonlocal cut
        if cut:
            return
        try:
            async with asyncio.timeout(PATIENCE if seconds is None else seconds):
                await send(message)
        except TimeoutError:
            cut = _cut_off(send)
            if not cut:
                raise
        except RuntimeError:
            # uvloop's words for a connection that is closed: another request was answered on it
            cut = _is_closed(send)
            if not cut:
                raise

    return within


def _transport(send: Send) -> asyncio.WriteTransport | None:
    """The connection: uvicorn's `send` is a method of the response that has it. Those of uvloop are
    no subclasses of asyncio's."""
    found = getattr(getattr(send, "__self__", None), "transport", None)
    fits = hasattr(found, "abort") and hasattr(found, "is_closing")
    return cast("asyncio.WriteTransport", found) if fits else None


def _is_closed(send: Send) -> bool:
    transport = _transport(send)
    return transport is not None and transport.is_closing()


def _cut_off(send: Send) -> bool:
    """Whether the connection could be ended. To close it politely would wait for the client."""
    transport = _transport(send)
    if transport is None:
        return False
    peer = transport.get_extra_info("peername")
    log.warning("a client does not read and was cut off: %s", peer)
    transport.abort()
    return True
