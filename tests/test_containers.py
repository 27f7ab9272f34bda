"""The image and the compose file: tools of their own read them, and what they name exists in this program."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from known_commands import understood
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy import Engine

from rlhf_loop.config import PREFIX, Settings
from rlhf_loop.monitoring import worker
from rlhf_loop.version import __version__
from rlhf_loop.web import create_app
from rlhf_loop.web.server import server

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
COMPOSE = (ROOT / "compose.yaml").read_text("utf-8")
LOCKS = sorted((ROOT / "deploy" / "docker").glob("*.lock"))
#: What a user writes into .env, by the first lines of compose.yaml.
SECRETS = {"POSTGRES_PASSWORD": "1f" * 24, "RLHF_SECRET_KEY": "2e" * 24}


def composed() -> dict[str, Any]:
    """Read the compose file, with the secrets in their places."""
    filled = re.sub(r"\$\{(\w+):\?[^}]+\}", lambda found: SECRETS[found[1]], COMPOSE)
    read: dict[str, Any] = yaml.safe_load(filled)
    return read


def program() -> dict[str, dict[str, Any]]:
    """Give the services that run this program, by name."""
    return {name: service for name, service in composed()["services"].items() if "build" in service}


def instructions(name: str) -> list[str]:
    return re.findall(rf"^ *{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def pinned(file: Path) -> dict[str, str]:
    """Give the version of each package in a lock."""
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", file.read_text("utf-8"), re.MULTILINE))


# --- The image -------------------------------------------------------------------------------------------------------


def test_the_linter_takes_the_dockerfile() -> None:
    """hadolint has nothing to say."""
    linter = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert linter
    done = subprocess.run([linter, "--format", "json", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_what_the_image_runs() -> None:
    """By default it serves, beyond loopback; it is not root, but the user that the manifests for Kubernetes name."""
    assert json.loads(instructions("ENTRYPOINT")[-1]) == ["rlhf-loop"]
    understood(json.loads(instructions("CMD")[-1]))
    (user,) = {number for user in instructions("USER") for number in user.split(":")}
    service = (ROOT / "deploy" / "kubernetes" / "service.yaml").read_text("utf-8")
    assert f"runAsUser: {user}\n" in service
    assert f"fsGroup: {user}\n" in service


def test_the_health_check_asks_what_the_service_has(sqlite_engine: Engine) -> None:
    """Its path is one of ours, on the port that is exposed and served by default; it needs nothing but Python."""
    (port,) = instructions("EXPOSE")
    (path,) = re.findall(rf"http://127\.0\.0\.1:{port}(/\w+)'", DOCKERFILE)
    app = create_app(Settings(database_url=str(sqlite_engine.url), sources=()))
    assert app.test_client().get(path).status_code == 200
    serve = next(command for command in program().values() if command["command"][0] == "serve")
    assert serve["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_what_is_copied_is_let_through() -> None:
    """The context holds what the image is made of, and by default nothing: no database, no model, no secret."""
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] not in ("", "#")]
    assert lines[0] == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {word for copy in instructions("COPY") if "--from" not in copy for word in copy.split()[:-1]}
    assert let_in == copied
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"], project["project"]["readme"], "pyproject.toml"} <= let_in


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_each_pinned_package_has_a_hash(file: Path) -> None:
    """A lock holds names, versions and hashes; no address of an index, so that everybody may use their own."""
    text = file.read_text("utf-8")
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ;[^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n", entry), entry[:80]


#: The extra [all], and what a service with other servers beside it needs.
IN_IMAGE = ("serve", "index", "charts", "onnx", "postgres", "redis", "oidc", "totp", "llm", "otel")


def test_the_locks_fit_the_project() -> None:
    """What pyproject.toml asks for is pinned, in a version that it allows. After a change of it: make lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    program, build = (pinned(ROOT / "deploy" / "docker" / f"{name}.lock") for name in ("program", "build"))
    asked = [*project["project"]["dependencies"], *(need for extra in IN_IMAGE for need in extras[extra])]
    for lock, needs in ((program, asked), (build, project["build-system"]["requires"])):
        for need in map(Requirement, needs):
            assert need.specifier.contains(lock[canonicalize_name(need.name)]), need
    assert "torch" not in program


def test_the_weights_are_those_of_the_makefile() -> None:
    """One version everywhere."""
    (weights,) = pinned(ROOT / "deploy" / "docker" / "weights.lock").items()
    assert f"WEIGHTS := {weights[0]}=={weights[1]}\n" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("file", ["compose.yaml", "Dockerfile", "deploy/kubernetes/service.yaml"])
def test_the_image_has_our_version(file: str) -> None:
    """Whoever builds a new version tags it as such."""
    tags = set(re.findall(r"\brlhf-loop:([\w.]+)", (ROOT / file).read_text("utf-8")))
    assert tags == {__version__}


# --- The compose file ------------------------------------------------------------------------------------------------


def test_the_compose_file_is_one() -> None:
    """The Compose Specification's own rules: fields, values, and volumes that are declared."""
    whole = compose_spec.PyCompose.from_yaml(yaml.safe_dump(composed()))
    whole.validate()
    assert set(whole.service_names()) == {"database", "server", "worker"}


def test_no_secret_has_a_default() -> None:
    """Without .env nothing starts, and the message says where to look: the first lines make one that has them all."""
    asked = re.findall(r"\$\{(\w+)([^}]*)\}", COMPOSE)
    assert {name for name, _ in asked} == set(SECRETS)
    assert all(message.startswith(":?") for _, message in asked)
    (recipe,) = re.findall(r"^# +printf '(.*)' .* > \.env$", COMPOSE, re.MULTILINE)
    assert set(re.findall(r"(\w+)=%s", recipe.replace("\\n", " "))) == set(SECRETS)
    assert ".env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_the_programs_are_shut_in() -> None:
    """As on Kubernetes: nothing can be written but volumes and memory, there are no rights to be had."""
    assert set(program()) == {"server", "worker"}
    for service in program().values():
        understood(service["command"])
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert {volume.split(":")[1] for volume in service["volumes"]} == {"/models", "/state"}
        assert service["depends_on"] == {"database": {"condition": "service_healthy"}}


def test_the_settings_are_known_and_their_paths_are_on_volumes() -> None:
    """Server and worker share the versions, and each has its own state; all else is relative to /state."""
    (workdir,) = instructions("WORKDIR")[-1:]
    (own,) = re.findall(rf"{PREFIX}CACHE_DIR=(\S+)", DOCKERFILE)
    assert workdir == "/state"
    assert Path(own).is_relative_to(workdir)
    for service in program().values():
        settings = Settings.from_env(service["environment"])
        assert settings.models_folder.is_relative_to("/models")
        assert not settings.model_path.is_absolute()
        assert not settings.outbox_path.is_absolute()
        assert settings.database_url == f"postgresql://rlhf:{SECRETS['POSTGRES_PASSWORD']}@database/rlhf"
    shared = [{volume for volume in service["volumes"] if ":/models" in volume} for service in program().values()]
    states = [volume for service in program().values() for volume in service["volumes"] if ":/state" in volume]
    assert shared[0] == shared[1] == {"models:/models"}
    assert len(set(states)) == len(program())


def test_a_stop_has_the_time_that_it_needs() -> None:
    """Requests and trainings end in order before Docker kills what is left."""
    for service in program().values():
        assert int(service["stop_grace_period"].removesuffix("s")) > max(server.GRACE_S, worker.GRACE_S)
