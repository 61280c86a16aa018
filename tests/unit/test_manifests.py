"""What `deploy/` says must hold: the settings, programs, files, ports and volumes that it names are there.

`make check-manifests` holds the same files against their schemas. A test of a feature row begins with its
number.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from app import create_app
from app.distributed.flow_runs import registered_flows
from config import Config
from scripts.process_flow import main as process_flow
from workers.__main__ import main as workers_main
from workers.pool import Plan

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"twintrack:{PROJECT['version']}"
PYTHONS_OWN = {"PYTHONUNBUFFERED", "PYTHONPATH"}
HEADROOM_SECONDS = 10  # after the last task: workers are joined, connections closed
DATABASE, REDIS = "postgresql+psycopg://me:secret@database/tasks", "redis://redis:6379/0"


@dataclass(frozen=True)
class Part:
    """One container: what it runs, how it is set, where it is mounted."""

    name: str
    command: list[str]
    settings: Mapping[str, str]
    grace_seconds: int
    mounts: Mapping[str, str] = field(default_factory=dict)


def dockerfile() -> list[tuple[str, str]]:
    """The instructions, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    words = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in words]


def image_settings() -> dict[str, str]:
    (text,) = (rest for name, rest in dockerfile() if name == "ENV")
    return dict(pair.split("=", 1) for pair in shlex.split(text))


def manifests() -> list[dict[str, Any]]:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    texts = [(DEPLOY / "kubernetes" / name).read_text() for name in kustomization["resources"]]
    return [one for text in texts for one in yaml.safe_load_all(text)]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in manifests() if one["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    return {name: one["spec"]["template"]["spec"] for name, one in of_kind("Deployment").items()}


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return read


def ours(services: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in services.items() if one["image"] == IMAGE}


def in_compose() -> Iterator[Part]:
    for name, one in ours(compose()["services"]).items():
        grace = int(one["stop_grace_period"].removesuffix("s"))
        mounts = dict(volume.split(":") for volume in one.get("volumes", []))
        yield Part(f"compose {name}", one["command"], one["environment"], grace, mounts)


def in_kubernetes() -> Iterator[Part]:
    maps = of_kind("ConfigMap")
    for name, pod in pods().items():
        for one in [*pod.get("initContainers", []), *pod["containers"]]:
            settings: dict[str, str] = {}
            for source in one["envFrom"]:
                settings |= maps[source["configMapRef"]["name"]]["data"]
            settings |= {variable["name"]: f"secret {variable['name']}" for variable in one["env"]}
            mounts = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
            grace = pod["terminationGracePeriodSeconds"]
            yield Part(f"{name} {one['name']}", one["command"], settings, grace, mounts)


PARTS = {part.name: part for part in [*in_compose(), *in_kubernetes()]}
of_each_part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())


def read(part: Part) -> Config:
    """The settings as this part has them, with addresses of its secrets."""
    given = image_settings() | dict(part.settings) | {"DATABASE_URL": DATABASE, "RQ_REDIS_URL": REDIS}
    return Config.for_tests({name: str(value) for name, value in given.items()})


@of_each_part
def test_000_21_001_20_each_variable_is_a_setting_that_takes_the_value(part: Part) -> None:
    assert {*image_settings(), *part.settings} - PYTHONS_OWN <= set(Config.model_fields)
    config = read(part)
    assert config.production
    assert (config.RQ_WORKER_MODE, config.HOST, config.PORT) == ("external", "0.0.0.0", 8000)
    assert not config.embedded_redis
    for module in config.TASK_MODULES:
        importlib.import_module(module)


@of_each_part
def test_000_21_001_20_each_command_is_there_and_takes_its_arguments(part: Part) -> None:
    python, *rest = part.command
    assert python == "python"
    if rest == ["web_app.py"]:
        return
    if rest[:2] == ["-m", "workers"]:
        if rest[2:] == ["check"]:
            assert "check" in workers_main.commands
            return
        with workers_main.make_context("workers", rest[2:]) as context:
            plan = Plan.of(read(part), pool=context.params["pool"])
        assert (plan.redis_workers, plan.sweeper) == (2, True)
        return
    assert rest[0] == "scripts/process_flow.py"
    with process_flow.make_context("process_flow", rest[1:]) as context:
        importlib.import_module(context.params["module"])
        assert context.params["flow"] in registered_flows()
        assert context.params["follow"]


@of_each_part
def test_000_21_a_part_that_stops_has_the_time_that_its_settings_promise(part: Part) -> None:
    if "workers" in part.command and "check" not in part.command:
        config = Config.for_tests({"RQ_SHUTDOWN_TIMEOUT": part.settings["RQ_SHUTDOWN_TIMEOUT"]})
        assert part.grace_seconds >= config.RQ_SHUTDOWN_TIMEOUT + HEADROOM_SECONDS
    assert part.grace_seconds >= 20  # of the web app: ten seconds for requests


def test_a_wrong_argument_would_be_found() -> None:
    with pytest.raises(click.UsageError):
        process_flow.make_context("process_flow", ["survey", "--module", "x", "--proceses", "2"])


def test_000_21_the_pieces_of_each_manifest_belong_together() -> None:
    documented = set(re.findall(r"--from-literal=([a-z-]+)=", (ROOT / "docs" / "containers.md").read_text()))
    asked = set()
    for name, deployment in of_kind("Deployment").items():
        spec = deployment["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"], name
        pod = spec["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for one in [*pod.get("initContainers", []), *pod["containers"]]:
            secrets = [variable["valueFrom"]["secretKeyRef"] for variable in one["env"]]
            assert {secret["name"] for secret in secrets} == {"twintrack"}
            asked |= {secret["key"] for secret in secrets}
            assert {mount["name"] for mount in one["volumeMounts"]} == volumes
            assert one["image"] == "twintrack"
            assert one["securityContext"]["readOnlyRootFilesystem"]
        assert pod["securityContext"]["runAsUser"] == 10001
    assert asked == documented
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert files == set(kustomization["resources"])
    assert kustomization["images"] == [{"name": "twintrack", "newTag": PROJECT["version"]}]
    replicas = {name: one["spec"]["replicas"] for name, one in of_kind("Deployment").items()}
    assert min(replicas.values()) >= 2


def test_000_21_probes_ask_for_what_answers_and_services_find_their_pods(tmp_path: Path) -> None:
    app = create_app(Config.for_tests(VAR_DIR=tmp_path))
    paths = {str(rule) for rule in app.url_map.iter_rules()}
    (web,) = pods()["twintrack-web"]["containers"]
    assert web["ports"] == [{"name": "http", "containerPort": 8000}]
    wanted = {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health/ready",
    }
    for probe, path in wanted.items():
        assert web[probe]["httpGet"] == {"path": path, "port": "http"}
        assert path in paths
    for service in of_kind("Service").values():
        found = [
            one
            for one in of_kind("Deployment").values()
            if service["spec"]["selector"].items() <= one["spec"]["template"]["metadata"]["labels"].items()
        ]
        ports = {port["name"] for one in found for port in _ports(one)}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        assert len(found) == 1


def _ports(deployment: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        port for one in deployment["spec"]["template"]["spec"]["containers"] for port in one.get("ports", [])
    ]


def test_001_20_the_stack_has_a_database_redis_and_n_workers() -> None:
    stack = compose()
    services = stack["services"]
    assert set(services) == {"database", "redis", "web", "workers", "records"}
    assert services["workers"]["deploy"]["replicas"] == "${WORKERS:-3}"
    assert "noeviction" in services["redis"]["command"]
    for name, one in services.items():
        for other, how in one.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[other], f"{name} waits for the health of {other}"
        for volume in one.get("volumes", []):
            assert volume.partition(":")[0] in stack["volumes"]
    for one in ours(services).values():
        assert re.fullmatch(
            r"postgresql\+psycopg://twintrack:\$\{.+\}@database:5432/twintrack",
            one["environment"]["DATABASE_URL"],
        )
        assert one["environment"]["RQ_REDIS_URL"] == REDIS
    assert services["web"]["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]
    assert "http://127.0.0.1:8000/health/ready" in services["web"]["healthcheck"]["test"][-1]


def test_001_20_every_variable_that_the_stack_wants_is_written_by_the_commands_beside_it() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    assert wanted == {"ADMIN_TOKEN", "API_TOKEN", "SECRET_KEY", "DATABASE_PASSWORD"}
    documented = (ROOT / "docs" / "containers.md").read_text()
    assert all(name == "DATABASE_PASSWORD" or name in Config.model_fields for name in wanted)
    assert 'echo "DATABASE_PASSWORD=' in documented


def test_000_21_images_are_pinned_and_name_no_registry() -> None:
    images = [rest for name, rest in dockerfile() if name == "FROM"]
    images += [one["image"] for one in compose()["services"].values()]
    for image in images:
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?(-[a-z-]+)?", image), image


def test_000_21_the_image_has_every_file_that_its_programs_import() -> None:
    copied = [word for name, rest in dockerfile() if name == "COPY" for word in rest.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    allowed = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert set(copied) == allowed
    here = {path.stem for path in ROOT.glob("*.py")} | {
        path.parent.name for path in ROOT.glob("*/__init__.py")
    }
    missing = set()
    for name in copied:
        files = [ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py")
        for path in files:
            for target in _imports(ast.parse(path.read_text())):
                if target in here and target not in {Path(one).stem for one in copied}:
                    missing.add(f"{path.relative_to(ROOT)} imports {target}")
    assert missing == set()


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


def locked(path: Path) -> dict[str, list[str]]:
    """Each pinned package with its hashes."""
    lines = re.sub(r"^ *#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ").splitlines()
    return {words[0]: [word for word in words if "--hash=" in word] for words in map(str.split, lines)}


def test_the_image_gets_what_the_project_needs_in_the_versions_that_are_tested() -> None:
    tested, run = locked(ROOT / "requirements.lock"), locked(DEPLOY / "requirements.lock")
    assert {pin: run[pin] for pin in run} == {pin: tested.get(pin) for pin in run}
    names = {pin.partition("==")[0] for pin in run}
    wanted = {re.split(r"[\[<>=; ]", one)[0].lower() for one in PROJECT["dependencies"]}
    assert wanted <= names
    assert not names & {"pytest", "mypy", "ruff", "playwright"}
