"""Units, images, containers and clusters, each by its own tool or its own schema."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from aura.cli.main import main
from aura.cli.serve import DRAIN
from aura.engine.worker import WorkerOptions
from tests.deploy.kit import DEPLOY, read, run
from tests.tidy_rules import ROOT
from tests.tools import tool

pytestmark = pytest.mark.timeout(900)

UNITS = sorted((DEPLOY / "systemd").iterdir())
COMPOSE = DEPLOY / "compose" / "compose.yaml"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
CLUSTER = DEPLOY / "kubernetes" / "aura.yaml"

ENDING = DRAIN + 2 * WorkerOptions().grace
"""Seconds that a server may take to end: requests, then twice the worker's grace."""

KUBERNETES = "1.33"


def test_commands_that_are_started_exist(capfd: pytest.CaptureFixture[str]) -> None:
    """`aura` takes the options that these files give it."""
    commands = [command for _, command in started()]
    assert len(commands) == 5
    for command in commands:
        assert main([command[0], "--help"]) == 0
        helped = capfd.readouterr().out
        for option in (word for word in command if word.startswith("--")):
            assert option in helped


def started() -> list[tuple[str, list[str]]]:
    """The commands of aura that units, containers and pods start."""
    found = []
    for unit in UNITS:
        line = re.search(r"^ExecStart=\S+/aura (.*)$", unit.read_text(), re.MULTILINE)
        assert line is not None
        found.append((unit.name, shlex.split(line[1])))
    for name, service in read(COMPOSE)["services"].items():
        if service["image"] == "aura:local":
            found.append((name, service["command"]))
    [container] = pods("Deployment")["containers"]
    found.append(("kubernetes", container["args"]))
    return found


# -- systemd ---------------------------------------------------------------------------------------


@pytest.fixture(params=UNITS, ids=lambda path: path.name)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit with a program and a user that are here."""
    text = request.param.read_text()
    for name, here in (("/opt/aura/venv/bin/aura", "/bin/true"), ("User=aura", "User=daemon"),
                       ("Group=aura", "Group=daemon")):  # fmt: skip
        assert name in text
        text = text.replace(name, here)
    path = tmp_path / str(request.param.name)
    path.write_text(text)
    return path


def test_systemd_accepts_the_units(unit: Path) -> None:
    found = run(tool("systemd-analyze"), "verify", "--man=no", unit)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""  # unknown settings are only warned about
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHouse=yes"))
    assert "ProtectHouse" in run(tool("systemd-analyze"), "verify", "--man=no", unit).stderr


def test_the_units_are_hardened(unit: Path) -> None:
    """Systemd's own score, from 0.0 (safe) to 10.0; above 2.0 the exit code tells."""
    command = (tool("systemd-analyze"), "security", "--offline=true", "--no-pager")
    found = run(*command, "--threshold=20", unit)
    assert found.returncode == 0, found.stdout[-2000:]
    bare = [line for line in unit.read_text().splitlines() if "Protect" not in line]
    unit.write_text("\n".join(bare))
    assert run(*command, "--threshold=20", unit).returncode != 0


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_give_runs_time_to_be_handed_back(path: Path) -> None:
    seconds = re.search(r"^TimeoutStopSec=(\d+)$", path.read_text(), re.MULTILINE)
    assert seconds is not None
    assert int(seconds[1]) > ENDING


# -- containers ------------------------------------------------------------------------------------


def instructions(path: Path = DOCKERFILE) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE))
    return [(word, rest.strip()) for word, _, rest in
            (line.partition(" ") for line in text.splitlines() if line)]  # fmt: skip


def test_the_image_is_small_and_runs_as_nobody() -> None:
    steps = instructions()
    known = "FROM WORKDIR COPY RUN ENV USER VOLUME EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD"
    assert {word for word, _ in steps} <= set(known.split())
    stages = [at for at, (word, _) in enumerate(steps) if word == "FROM"]
    assert len(stages) == 2
    assert all(re.search(r":\d+\.\d+", steps[at][1]) for at in stages)  # pinned
    last = steps[stages[-1] :]
    words = dict(last)
    assert all("--from=build" in rest for word, rest in last if word == "COPY")
    user, group = words["USER"].split(":")
    assert int(user) > 0 < int(group)
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(words["ENTRYPOINT"]) == ["aura"]  # signals reach it: there is no shell
    assert "/readyz" in words["HEALTHCHECK"]
    assert [word for word, _ in last].index("USER") > [word for word, _ in last].index("RUN")
    owned = [one.split()[-1] for one in re.findall(r"install ([^&]*)", words["RUN"])
             if "--owner" in one]  # fmt: skip
    assert owned == [words["VOLUME"]]  # the app's own code is not the process' to write


def test_what_is_copied_is_there_and_is_not_ignored() -> None:
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = [rest.split()[:-1] for word, rest in instructions()
              if word == "COPY" and "--from" not in rest]  # fmt: skip
    names = {name.removeprefix("./") for one in copied for name in one}
    assert names == allowed
    assert all((ROOT / name).exists() for name in names)
    extras = re.search(r"'\.\[([\w,]+)\]'", DOCKERFILE.read_text())
    project = re.search(
        r"\[project.optional-dependencies\]\n(.*?)\n\n\[",
        (ROOT / "pyproject.toml").read_text(), re.DOTALL,
    )  # fmt: skip
    assert extras is not None
    assert project is not None
    assert all(re.search(rf"^{one} = ", project[1], re.MULTILINE) for one in extras[1].split(","))


def test_the_compose_file_follows_its_schema() -> None:
    """The schema of the Compose Specification, Apache-2.0, commit 170098b of its repository."""
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    checker = jsonschema.Draft7Validator(schema)
    checker.check_schema(schema)
    assert [one.message for one in checker.iter_errors(read(COMPOSE))] == []
    broken = read(COMPOSE)
    broken["services"]["aura"]["port"] = []
    assert list(checker.iter_errors(broken))


def test_compose_mounts_what_is_there_and_opens_ports_to_this_machine_only() -> None:
    body = read(COMPOSE)
    for name, service in body["services"].items():
        assert re.search(r":(local|v?\d[\w.-]*)$", service["image"]), name
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            assert target.startswith("/")
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists(), source
                assert volume.endswith(":ro")
            else:
                assert source in body["volumes"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        assert set(service.get("depends_on", ())) <= set(body["services"])
    for name in ("aura", "worker"):
        service = body["services"][name]
        assert int(service["stop_grace_period"].removesuffix("s")) > ENDING
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
    passwords = re.findall(r"PASSWORD: +(.*)", COMPOSE.read_text())
    assert passwords
    assert all(one.startswith("${") and ":?" in one for one in passwords)


def test_prometheus_scrapes_the_containers() -> None:
    services = read(COMPOSE)["services"]
    [job] = read(COMPOSE.with_name("prometheus.yml"))["scrape_configs"]
    [found] = job["dns_sd_configs"]
    for name in found["names"]:
        assert f"0.0.0.0:{found['port']}" in services[name]["command"]
    healthy = services["worker"]["healthcheck"]["test"]
    assert f"127.0.0.1:{found['port']}/healthz" in healthy[-1]


def test_the_app_of_the_compose_file_can_be_served() -> None:
    program = "import app; print(app.app.name)"
    assert run(sys.executable, "-c", program, cwd=COMPOSE.parent / "app").stdout == "research\n"


# -- Kubernetes ------------------------------------------------------------------------------------


def objects() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(CLUSTER.read_text()))


def pods(kind: str) -> dict[str, Any]:
    [found] = [one for one in objects() if one["kind"] == kind]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("body", objects(), ids=lambda one: str(one["kind"]))
def test_kubernetes_accepts_the_objects(body: dict[str, Any]) -> None:
    """By the API's own schema; strict refuses what it does not know."""
    kubernetes_validate.validate(body, KUBERNETES, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**body, "speck": {}}, KUBERNETES, strict=True)


def test_pods_end_in_peace_and_are_probed() -> None:
    spec = pods("Deployment")
    [container] = spec["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > pause + ENDING
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert str(ports["http"]) in container["args"]
    assert f"0.0.0.0:{ports['metrics']}" in container["args"]
    for probe, path in (
        ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz"), ("startupProbe", "/healthz"),
    ):  # fmt: skip
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}


def test_pods_may_do_nothing_that_they_need_not() -> None:
    spec = pods("Deployment")
    [container] = spec["containers"]
    user = instructions()[-1 - [word for word, _ in instructions()][::-1].index("USER")][1]
    assert f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}" == user
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False


def test_selectors_find_the_pods() -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for one in objects():
        by_kind.setdefault(one["kind"], []).append(one.get("spec", one))
    [deployment] = by_kind["Deployment"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert [one["selector"] for one in by_kind["Service"]] == [labels, labels]
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        [spec] = by_kind[kind]
        assert spec[key]["matchLabels"] == labels
    [budget] = by_kind["PodDisruptionBudget"]
    assert budget["minAvailable"] < deployment["replicas"]
    names = {port["name"] for port in pods("Deployment")["containers"][0]["ports"]}
    used = [port["targetPort"] for one in by_kind["Service"] for port in one["ports"]]
    [policy] = by_kind["NetworkPolicy"]
    used += [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    assert set(used) <= names
