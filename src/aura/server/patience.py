"""Clients that do not read what they have asked for.

A server's writes wait while a client's buffers are full; that is all that is kept for it, and it
holds nobody else up. But a client that never reads again would keep its connection for good. So a
write that has waited for `PATIENCE` seconds ends the connection, unsent bytes included.
"""

from __future__ import annotations

import asyncio
import logging

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

    return within


def _cut_off(send: Send) -> bool:
    """Whether the connection could be ended: uvicorn's `send` is a method of the response that has
    it. Closing it politely would wait for the client once more."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if not isinstance(transport, asyncio.WriteTransport):
        return False
    peer = transport.get_extra_info("peername")
    log.warning("a client does not read and was cut off: %s", peer)
    transport.abort()
    return True
