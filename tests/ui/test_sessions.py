"""Sessions, what may be said on a page's connection, and the numbers of the overview. Pure."""

from __future__ import annotations

import json
import math

import pytest

from aura.server.trends import Sample, between, quantile, trend
from aura.server.ui import sessions
from aura.server.ui.front import is_for
from aura.server.ui.parts import el
from aura.server.ui.sessions import IDLE, LIFETIME, Sessions, cookie, digest, read_cookie


def test_a_session_ends_when_it_is_idle_old_or_told_to() -> None:
    known = Sessions()
    secret = known.begin("ann", 0.0)
    assert secret != known.begin("ann", 0.0)
    key = digest(secret)
    assert known.token(key, 1.0) == "ann"
    assert known.token(key, IDLE) == "ann"
    assert known.token(key, 2 * IDLE) is None
    assert known.token(key, 2 * IDLE) is None
    key = digest(known.begin("bob", 0.0))
    used = [known.token(key, at * IDLE / 2) for at in range(int(2 * LIFETIME / IDLE) + 1)]
    assert used == ["bob"] * (len(used) - 1) + [None]
    key = digest(known.begin("eve", 0.0))
    known.end(key)
    assert known.token(key, 0.0) is None
    assert known.token("", 0.0) is None


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST", 3)
    known = Sessions()
    keys = [digest(known.begin(str(number), 0.0)) for number in range(3)]
    assert known.token(keys[0], 1.0) == "0"
    known.begin("3", 1.0)
    assert [known.token(key, 1.0) for key in keys] == ["0", None, "2"]
    assert len(known) == 3


def test_a_cookie_is_for_this_host_and_for_no_script() -> None:
    given = cookie("s3cret", secure=True)
    assert given.startswith("__Host-aura_session=s3cret; Path=/; ")
    for word in ("HttpOnly", "SameSite=Strict", "Secure"):
        assert word in given.split("; ")
    assert "Secure" not in cookie("s3cret", secure=False)
    assert "Max-Age=0" in cookie("", secure=False)
    assert read_cookie("a=b; __Host-aura_session=x", secure=True) == "x"
    assert read_cookie("aura_session=x", secure=True) == ""
    assert read_cookie("aura_session=x; a=b", secure=False) == "x"
    for odd in ("", ";;;", "aura_session", "\x00=\x01", "=" * 1000):
        assert read_cookie(odd, secure=False) == ""


def event(*told: object) -> str:
    return "42" + json.dumps(["event", *told])


@pytest.mark.parametrize(
    ("text", "mine"),
    [
        ("2", True),
        ("3probe", True),
        ("40", True),
        ("41", True),
        (event({"client_id": "me", "id": 3}), True),
        ("4217" + json.dumps(["handshake", {"client_id": "me"}]), True),
        (event({"client_id": "other"}), False),
        (event({"client\\u005fid": "other"}), False),
        (event({"client_id": "me"}, {"client_id": "other"}), False),
        (event({}), False),
        (event("me"), False),
        ('42["event",{"client_id":"me","client_id":"other"}]', False),
        ("42/other,[]", False),
        ("42[", False),
        ("45" + "1-" + json.dumps(["event", {"client_id": "me"}]), False),
        ("43[]", False),
        ("4", False),
        ("42" + "[" * 100_000, False),
        ("40" + "x" * 5000, False),
    ],
)
def test_a_connection_speaks_for_its_own_page(text: str, mine: bool) -> None:
    assert is_for(text, "me") is mine


def test_links_lead_inside() -> None:
    for target in ("//evil.example", "https://evil.example", "javascript:alert(1)", "data:x"):
        with pytest.raises(ValueError, match="leads out"):
            el_without_page(target)


def el_without_page(target: str) -> None:
    from nicegui import Client, ui

    with Client(ui.page("/test")):
        el("a", href=target)


def test_trends_say_what_happened_between_the_samples() -> None:
    nothing = trend(())
    assert (nothing.rate, nothing.errors, nothing.slow, nothing.rates) == (0.0, None, None, ())
    assert trend([Sample(0.0, 5, 1, ())]).rate == 0.0
    fast, slow = 0.1, 1.0

    def took(few: int, many: int) -> tuple[tuple[float, int], ...]:
        return ((fast, few), (slow, many), (math.inf, 0))

    found = trend(
        [
            Sample(0.0, 100, 10, took(90, 10)),
            Sample(5.0, 110, 10, took(100, 10)),
            Sample(10.0, 120, 15, took(100, 20)),
            Sample(15.0, 50, 5, took(100, 20)),  # old runs were deleted
        ]
    )
    assert found.rates == (2.0, 2.0, 0.0)
    assert found.failures == (0, 5, 0)
    assert found.rate == pytest.approx(20 / 15)
    assert found.errors == 0.25
    assert found.median == pytest.approx(fast)
    assert found.slow == pytest.approx(fast + 0.9 * (slow - fast))


def test_quantiles_lie_inside_their_bucket() -> None:
    assert quantile((), 0.5) is None
    assert quantile(((1.0, 0), (math.inf, 0)), 0.5) is None
    assert quantile(((1.0, 4), (math.inf, 0)), 0.5) == 0.5
    assert quantile(((1.0, 0), (math.inf, 4)), 0.5) == 1.0
    assert between(((1.0, 5),), ((1.0, 3), (2.0, 4))) == ((1.0, 0), (2.0, 4))
