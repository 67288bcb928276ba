"""How tests get the programs that they need, tried with an apt-get of our own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests import tools
from tests.tidy_rules import ROOT
from tests.tools import TOOLS, ToolMissing, tool

APT = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
    *update) test -e {broken} && rm {broken} && echo "E: no network" >&2 && exit 100 ;;
    *install*) {install} ;;
esac
exit 0
"""
PROGRAM = "printf '#!/bin/sh\\nexit 0\\n' > {bin}/amtool; chmod +x {bin}/amtool"


class Machine:
    """A machine with nothing on its PATH but an apt-get that writes down what it is asked."""

    def __init__(self, folder: Path, install: str = PROGRAM) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("sh", "rm", "chmod", "test"):
            (self.bin / name).symlink_to(f"/bin/{name}")
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.log = folder / "log"
        self.broken = folder / "broken"
        self.policy = folder / "policy-rc.d"
        self.program(
            "apt-get",
            APT.format(
                log=self.log, broken=self.broken,
                install=install.format(bin=self.bin, policy=self.policy, log=self.log),
            ),
        )  # fmt: skip

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def calls(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.partition("confold ")[2] or line for line in lines]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": str(self.bin), "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)}

    def process(self) -> subprocess.Popen[str]:
        """Another process that needs amtool on this machine."""
        code = (
            "import os, pathlib; os.geteuid = lambda: 0\n"
            "from tests import tools\n"
            f"tools.POLICY = pathlib.Path({str(self.policy)!r})\n"
            "print(tools.tool('amtool'))"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code], env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    _live_on(made, monkeypatch)
    return made


def _live_on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(machine.temporary))
    monkeypatch.setattr(tools, "POLICY", machine.policy)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_a_program_that_works_is_taken_as_it_is(machine: Machine) -> None:
    machine.program("amtool", "#!/bin/sh\nexit 0\n")
    assert tool("amtool") == str(machine.bin / "amtool")
    assert machine.calls() == []


def test_a_program_that_does_not_work_is_replaced(machine: Machine) -> None:
    machine.program("amtool", "#!/bin/sh\necho 'please install it with snap' >&2\nexit 1\n")
    assert tool("amtool") == str(machine.bin / "amtool")
    assert machine.calls() == [
        "update", "install --yes --no-install-recommends prometheus-alertmanager",
    ]  # fmt: skip


def test_several_processes_update_once_and_install_once(machine: Machine) -> None:
    processes = [machine.process() for _ in range(3)]
    for process in processes:
        said, complained = process.communicate(timeout=60)
        assert (said.strip(), complained) == (str(machine.bin / "amtool"), "")
    assert [call.split()[0] for call in machine.calls()] == ["update", "install"]


def test_a_mirror_that_fails_once_is_asked_again(machine: Machine) -> None:
    machine.broken.touch()
    assert tool("amtool") == str(machine.bin / "amtool")
    assert [call.split()[0] for call in machine.calls()] == ["update", "update", "install"]


SERVICE = "test -x {policy} && echo 'no services' >> {log}; " + PROGRAM


@pytest.mark.parametrize("owners", [False, True])
def test_services_may_not_start_while_installing(
    owners: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, SERVICE)
    _live_on(machine, monkeypatch)
    if owners:
        machine.policy.write_text("#!/bin/sh\nexit 101 # the owner's\n")
        machine.policy.chmod(0o755)
    tool("amtool")
    assert machine.calls()[-1] == "no services"
    assert machine.policy.exists() is owners  # ours goes again, the owner's stays as it was
    assert not owners or "the owner's" in machine.policy.read_text()


@pytest.mark.parametrize(
    ("install", "user", "reason"),
    [
        ("echo 'E: Unable to locate package' >&2; exit 100", 0, "E: Unable to locate package"),
        (PROGRAM, 1000, "only root may use apt-get"),
    ],
)
def test_what_cannot_be_installed_is_said_in_one_sentence(
    install: str, user: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _live_on(Machine(tmp_path, install), monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(ToolMissing) as raised:
        tool("amtool")
    assert "install Debian's package prometheus-alertmanager" in str(raised.value)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_chromium_comes_from_playwright_where_debian_may_not(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    browser = tmp_path / "browser"
    asked = []

    def run(*command: str) -> str:
        asked.append(command[1:])
        if "install" in command:
            browser.write_text("#!/bin/sh\nexit 0\n")
            browser.chmod(0o755)
        return f"{browser}\n"

    monkeypatch.setattr(tools, "_run", run)
    assert tool("chromium") == str(browser)
    assert asked[-1] == ("-m", "playwright", "install", "chromium")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TOOLS)
def test_this_machine_has_what_the_tests_need(name: str) -> None:
    path = tool(name)
    assert Path(path).is_file()
    assert subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
