"""The examples of `deploy/`: what they name exists in this program, and their own tools take them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from known_commands import understood
from sqlalchemy import Engine

from rlhf_loop.config import Settings
from rlhf_loop.monitoring import worker
from rlhf_loop.web import create_app
from rlhf_loop.web.server import server

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
MANIFESTS = sorted((DEPLOY / "kubernetes").iterdir())
PROGRAM = "/opt/rlhf-loop/.venv/bin/rlhf-loop"
#: The oldest that has all the fields; later ones are only added to.
KUBERNETES = "1.33"


class Unit(RawConfigParser):
    """systemd's keys are case-sensitive, and may come several times; the last one wins here."""

    def __init__(self, file: Path) -> None:
        super().__init__(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
        self.read_string(file.read_text(encoding="utf-8"))

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def everything(value: object) -> Iterator[tuple[str, Any]]:
    """Give each key below a value, with what it has."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield key, below
            yield from everything(below)
    elif isinstance(value, list):
        for below in value:
            yield from everything(below)


def pods(value: object) -> list[dict[str, Any]]:
    return [below for key, below in everything(value) if key == "spec" and "containers" in below]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """systemd's own check has nothing to say about them."""
    units = []
    for file in UNITS:
        unit = tmp_path / file.name
        unit.write_text(file.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true"), encoding="utf-8")
        units.append(str(unit))
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "rlhf-loop" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_units(file: Path) -> None:
    """Each runs a command of ours as a user of its own, who may write to its own folders only."""
    unit = Unit(file)
    if file.suffix == ".timer":
        assert file.with_suffix(".service") in UNITS
        assert unit["Timer"]["OnCalendar"] == "hourly"
        return
    service = unit["Service"]
    for key in ("ExecStart", "ExecStartPost"):
        if key in service:
            program, *words = shlex.split(service[key].removeprefix("-"))
            assert program == PROGRAM
            understood(words)
    assert (service["User"], service["ProtectSystem"], service["NoNewPrivileges"]) == ("rlhf", "strict", "yes")
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
    assert service["Environment"] == f"RLHF_CACHE_DIR=/var/cache/{service['CacheDirectory']}"
    # So that whatever has to end in order has the time.
    assert int(service["TimeoutStopSec"]) > max(server.GRACE_S, worker.GRACE_S)
    if "retrain" in service["ExecStart"]:
        # Those of `rlhf-loop retrain` that need nobody to look at once.
        assert service["SuccessExitStatus"].split() == ["3", "75"]
    else:
        # That of a wrong setting.
        assert service["RestartPreventExitStatus"] == "2"


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_kubernetes_takes_the_manifests(file: Path) -> None:
    """Kubernetes' own schemas know each field, and miss none."""
    for document in documents(file):
        assert kubernetes_validate.validate(document, KUBERNETES, strict=True) == KUBERNETES


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
def test_manifests(file: Path) -> None:
    """Containers run commands of ours, not as root, with a root file system that cannot be written to."""
    found = documents(file)
    assert all({"apiVersion", "kind", "metadata"} <= document.keys() for document in found)
    assert pods(found)
    for pod in pods(found):
        assert pod["securityContext"]["runAsNonRoot"] is True
        own = {volume["name"] for volume in pod["volumes"]}
        own |= {
            claim["metadata"]["name"]
            for key, claims in everything(found)
            if key == "volumeClaimTemplates"
            for claim in claims
        }
        for container in pod["containers"]:
            understood(container["args"])
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {mount["name"] for mount in container["volumeMounts"]} == own
            names = {source[kind]["name"] for source in container["envFrom"] for kind in source}
            assert names == {"rlhf-loop"}


def test_settings_of_the_manifests(tmp_path: Path) -> None:
    """What the manifests set is known, and each path is on a volume that is mounted."""
    (settings,) = [
        document["data"] for file in MANIFESTS for document in documents(file) if document["kind"] == "ConfigMap"
    ]
    ours = {name: value for name, value in settings.items() if name.startswith("RLHF_")}
    assert settings.keys() - ours.keys() == {"AWS_REGION"}
    read = Settings.from_env(ours)
    assert read.models_store == "s3://rlhf-loop/models"
    assert all(path.is_relative_to("/state") for path in (read.model_path, read.outbox_path, read.cache_dir))
    claims = [document for file in MANIFESTS for document in documents(file) if "accessModes" in str(document)]
    assert "ReadWriteMany" not in str(claims)


def test_probes(sqlite_engine: Engine) -> None:
    """Probes ask what the service has, where it listens, and a stop has the time that it needs."""
    found = [document for file in MANIFESTS for document in documents(file)]
    (pod,) = [pod for document in found if document["kind"] == "StatefulSet" for pod in pods(document)]
    (container,) = pod["containers"]
    asked = {below["path"] for key, below in everything(container) if key == "httpGet"}
    app = create_app(Settings(database_url=str(sqlite_engine.url), sources=()))
    assert asked == {"/healthz", "/readyz"}
    assert asked <= {str(rule) for rule in app.url_map.iter_rules()}
    (port,) = container["ports"]
    assert container["args"][container["args"].index("--port") + 1] == str(port["containerPort"])
    assert {below["port"] for key, below in everything(container) if key == "httpGet"} == {port["name"]}
    assert pod["terminationGracePeriodSeconds"] > server.GRACE_S


def test_the_cron_job() -> None:
    """One job at a time, and its exit codes are told apart as documented."""
    found = [document for file in MANIFESTS for document in documents(file)]
    (job,) = [document for document in found if document["kind"] == "CronJob"]
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert job["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0
    actions = {
        code: rule["action"]
        for rule in job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
        for code in rule["onExitCodes"]["values"]
    }
    assert actions == {75: "Ignore", 2: "FailJob", 3: "FailJob"}
