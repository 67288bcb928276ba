"""Keys that encrypt what is stored: AES-256-GCM, with a key of its own for each process.

A frame is

    0x02 | length of the key's id | key's id | salt, 16 bytes | nonce, 12 bytes | ciphertext, tag

The key of a frame is HMAC-SHA256(key, "aura frame key 1" + salt). The salt is drawn once per
process (and anew after 2^30 frames), the nonce for each frame, so that random nonces stay far from
the 2^32 frames per key that NIST SP 800-38D, section 8.3, allows for them. The place of a value
(which run, which entry, which column) is authenticated with it: a frame that was moved elsewhere
does not open there.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from aura.codec import CLOSED, SEALED
from aura.errors import ConfigError, MissingExtra

_KEY = 32  # bytes
_SALT, _NONCE, _TAG = 16, 12, 16
_PURPOSE = b"aura frame key 1"
_FRAMES_PER_SALT = 1 << 30
_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")
_ADVICE = "Write ID:KEY, where KEY is what `openssl rand -base64 32` prints"


class Keyring:
    """Keys by id; the first one encrypts, all decrypt. Shows its ids only."""

    def __init__(self, texts: Sequence[str]) -> None:
        """`texts` are "id:base64", 32 bytes each. Raises ConfigError, MissingExtra."""
        self._keys: dict[str, bytes] = {}
        for number, text in enumerate(texts, 1):
            key_id, key = _parsed(text, number)
            if key_id in self._keys:
                raise ConfigError(f"two encryption keys are called {key_id}", hint=_ADVICE)
            self._keys[key_id] = key
        self.ids = tuple(self._keys)
        if self.ids:
            _ciphers()
        self._derived = lru_cache(maxsize=4_096)(self._derive)
        self._left = 0
        self._head = b""
        self._cipher: Any = None

    def __repr__(self) -> str:
        return f"<keyring {' '.join(self.ids)}>"

    def seal(self, data: bytes, place: bytes) -> bytes:
        """The bytes as an encrypted frame that opens at that place only."""
        if not self._left:
            self._renew()
        self._left -= 1
        nonce = os.urandom(_NONCE)
        sealed: bytes = self._cipher.encrypt(nonce, data, place)
        return self._head + nonce + sealed

    def open(self, frame: bytes, place: bytes) -> bytes:
        """The bytes of a frame. What is no frame comes back as it is, and so does one whose key is
        not here; one that does not open is marked as that."""
        if frame[:1] != SEALED:
            return frame
        start = 2 + frame[1] if len(frame) > 1 else 1
        key_id = frame[2:start].decode("ascii", "replace")
        if key_id not in self._keys:
            return frame
        salt, rest = frame[start : start + _SALT], frame[start + _SALT :]
        opened = self._opened(key_id, salt, rest, place) if len(rest) >= _NONCE + _TAG else None
        return CLOSED + frame[1:] if opened is None else opened

    def _opened(self, key_id: str, salt: bytes, rest: bytes, place: bytes) -> bytes | None:
        from cryptography.exceptions import InvalidTag

        try:
            found: bytes = self._derived(key_id, salt).decrypt(rest[:_NONCE], rest[_NONCE:], place)
        except InvalidTag:
            return None
        return found

    def _renew(self) -> None:
        key_id, salt = self.ids[0], os.urandom(_SALT)
        self._cipher = self._derive(key_id, salt)
        self._head = SEALED + bytes([len(key_id)]) + key_id.encode() + salt
        self._left = _FRAMES_PER_SALT

    def _derive(self, key_id: str, salt: bytes) -> Any:
        return _ciphers()(hmac.digest(self._keys[key_id], _PURPOSE + salt, "sha256"))


def _parsed(text: str, number: int) -> tuple[str, bytes]:
    """Id and key. No message says anything of a key."""
    key_id, colon, encoded = text.strip().partition(":")
    if not colon or not _ID.fullmatch(key_id):
        raise ConfigError(
            f"encryption key {number} has no id of 1 to 32 letters, digits, '.', '_' and '-'",
            hint=_ADVICE,
        )
    try:
        key = base64.b64decode(encoded.translate(_URL_SAFE), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != _KEY:
        raise ConfigError(f"encryption key {key_id} is not 32 bytes in base64", hint=_ADVICE)
    return key_id, key


_URL_SAFE = str.maketrans("-_", "+/")


def _ciphers() -> Any:
    """The AESGCM class, loaded when the first key is."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtra(
            "encryption needs the package cryptography",
            hint="Install it with: pip install 'aura-workflows[crypto]'",
        ) from error
    return AESGCM
