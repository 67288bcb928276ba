"""The fixtures, in a project of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFTEST = """
import pytest
pytest_plugins = ["aura.testing.plugin"]

@pytest.fixture
def aura_app():
    from shop import app
    return app
"""
SHOP = """
import aura
from datetime import timedelta
from aura import Aura, step

app = Aura("shop")

@step
async def charge(number: str) -> str:
    raise RuntimeError("no bank here")

@app.workflow(version="1.0.0")
async def order(number: str) -> str:
    receipt = await charge(number)
    await aura.sleep(timedelta(days=2))
    return receipt
"""
TESTS = """
from aura.testing import mock_step
from shop import charge, order

async def test_one(sandbox):
    with mock_step(charge, returns="paid"):
        assert await (await sandbox.start(order, "A-1", id="same")).result() == "paid"

async def test_two(sandbox):
    with mock_step(charge, returns="paid again"):
        assert await (await sandbox.start(order, "A-1", id="same")).result() == "paid again"
"""


def pytest_in(folder: Path, conftest: str) -> str:
    (folder / "conftest.py").write_text(conftest)
    (folder / "shop.py").write_text(SHOP)
    (folder / "test_shop.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\npythonpath = .\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_fixture_opens_the_app_for_each_test(tmp_path: Path) -> None:
    assert "2 passed" in pytest_in(tmp_path, CONFTEST)
    assert not list(tmp_path.glob("*.db"))


def test_without_an_app_it_says_what_to_do(tmp_path: Path) -> None:
    said = pytest_in(tmp_path, 'pytest_plugins = ["aura.testing.plugin"]\n')
    assert "Define a fixture `aura_app`" in said


def test_the_kit_does_not_need_pytest() -> None:
    script = "import sys; sys.modules['pytest'] = None; import aura.testing; print('fine')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "fine"
