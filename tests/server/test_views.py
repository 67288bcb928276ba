"""Stored bytes as they are shown, also when they are large, damaged or of an odd shape."""

from __future__ import annotations

import json

import pytest

from aura.codec import Limits, pack
from aura.server.views import PREVIEW, WHOLE, error_view, payload_view, time_of, worker_view
from aura.store.base import Worker


def test_a_short_payload_is_whole() -> None:
    found = payload_view(b'{"text":"a"}')
    assert found is not None
    assert (found.bytes, found.whole, found.value, found.preview) == (12, True, {"text": "a"}, "")


def test_a_long_payload_shows_its_beginning_and_size_unless_full() -> None:
    text = json.dumps("é" * 20_000, ensure_ascii=False).encode()
    stored = pack(text, Limits(), "a text")
    assert len(stored) < len(text)  # it is compressed
    found = payload_view(stored)
    assert found is not None
    assert (found.bytes, found.whole, found.value) == (len(text), False, None)
    assert found.preview == '"' + "é" * (PREVIEW - 1)
    full = payload_view(stored, full=True)
    assert full is not None
    assert (full.whole, full.value) == (True, "é" * 20_000)


def test_the_limit_of_a_whole_payload() -> None:
    exact, over = (b'"' + b"a" * (WHOLE - 2 + more) + b'"' for more in (0, 1))
    shown = [payload_view(data) for data in (exact, over)]
    assert [found.whole for found in shown if found] == [True, False]


@pytest.mark.parametrize("data", [b"\x01broken", b"{", b"\xff\xfe", b""])
def test_damaged_payloads_say_so(data: bytes) -> None:
    found = payload_view(data)
    assert found is not None
    assert not found.whole
    assert found.preview.startswith("cannot be read")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"type":"ValueError","message":"no","traceback":"t"}', "ValueError"),
        (b'["no", "mapping"]', "unknown"),
        (b"\x01broken", "unreadable"),
    ],
)
def test_errors_are_shown_whatever_they_are(data: bytes, kind: str) -> None:
    found = error_view(data)
    assert found is not None
    assert found.type == kind


def test_no_payload_and_no_error_are_none() -> None:
    assert payload_view(None) is None
    assert error_view(None) is None


def test_a_worker_is_live_until_its_lease_is_over() -> None:
    info = json.dumps({"host": "h", "pid": 7, "runs": 2, "workflows": ["a 1.0.0"]}).encode()
    worker = Worker("w", 100.0, 50.0, info)
    assert worker_view(worker, 99.9).live
    assert not worker_view(worker, 100.0).live
    assert worker_view(worker, 99.9).workflows == ("a 1.0.0",)
    assert worker_view(Worker("w", 100.0, 50.0, b"damaged"), 1.0).workflows == ()


@pytest.mark.parametrize("at", [1e13, 1e300, float("inf")])
def test_a_time_that_no_calendar_has_is_shown_as_the_last_one(at: float) -> None:
    assert time_of(at).year == 9999
    assert time_of(0.0).year == 1970
