"""Commands on an encrypted database, with its key and without."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.cli.conftest import Aura

KEY = "k1:" + base64.b64encode(b"0123456789abcdef" * 2).decode()


@pytest.fixture
def secret_run(aura: Aura, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_ENCRYPTION_KEYS", KEY)
    arguments = ('"tell-nobody"', "--id", "one", "--version", "1.0.0")
    assert aura("run", "research:app", "research", *arguments).json == {"length": 11}
    assert aura("run", "research:app", "broken", '"tell-nobody"', "--id", "two").code == 1


def test_with_the_key_a_run_is_shown(aura: Aura, secret_run: None) -> None:
    assert "tell-nobody" in aura("runs", "show", "one").out
    assert "ValueError: tell-nobody" in aura("runs", "show", "two").out
    assert "on: the key k1 encrypts" in aura("doctor").out


def test_without_the_key_a_run_is_shown_as_encrypted(
    aura: Aura, secret_run: None, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    monkeypatch.delenv("AURA_ENCRYPTION_KEYS")
    for run_id in ("one", "two"):
        shown = aura("runs", "show", run_id, "--full")
        assert shown.code == 0
        assert "encrypted with the key k1" in shown.out
        assert "tell-nobody" not in shown.out + shown.err
    found = aura("runs", "show", "one", "--json").json
    assert found["input"]["encrypted"] is True
    assert found["journal"][0]["output"]["encrypted"] is True
    listed = aura("runs", "list")
    assert "encrypted" in listed.out
    assert all(b"tell-nobody" not in one.read_bytes() for one in project.glob("aura.db*"))


def test_without_the_key_nothing_is_started(
    aura: Aura, secret_run: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AURA_ENCRYPTION_KEYS")
    for more in (("--detach",), ()):
        ended = aura("run", "research:app", "research", '"a"', "--id", "three", *more)
        assert ended.code == 1
        assert "the key k1, which this process does not have" in ended.err
    assert aura("runs", "show", "three").code == 1


def test_doctor_says_that_the_key_is_missing(
    aura: Aura, secret_run: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AURA_ENCRYPTION_KEYS")
    checks = {check["name"]: check for check in aura("doctor", "--json").json["checks"]}
    assert checks["encryption"]["level"] == "problem"
    assert "k1" in checks["encryption"]["text"]
    assert "AURA_ENCRYPTION_KEYS" in checks["encryption"]["mend"]


def test_doctor_says_that_encryption_is_off(aura: Aura) -> None:
    aura("run", "research:app", "research", '"a"', "--version", "1.0.0")
    checks = {check["name"]: check for check in aura("doctor", "--json").json["checks"]}
    assert checks["encryption"]["level"] == "ok"
    assert checks["encryption"]["text"].startswith("off")


def test_no_output_shows_a_key(
    aura: Aura, secret_run: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = KEY.partition(":")[2]
    monkeypatch.setenv("AURA_DEBUG", "1")
    for value in (KEY, KEY + "," + KEY, KEY[:-8]):
        monkeypatch.setenv("AURA_ENCRYPTION_KEYS", value)
        for arguments in (("doctor",), ("runs", "show", "one"), ("gc", "--json")):
            ended = aura(*arguments)
            assert secret[:16] not in ended.out + ended.err
