"""The compose file and the Dockerfile, read as the tools read them: no Docker daemon is needed."""

import json
import os
import re
import runpy
import shutil
import subprocess
from functools import cache
from importlib import resources
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from backtalk import embedded
from backtalk.config import Settings
from backtalk.store import VersionStore

ROOT = Path(__file__).parents[2]
LONG_RUNNING = ("api", "events", "training-head", "training-full", "relay", "beat")
OURS = (*LONG_RUNNING, "migrate", "cli")


@cache
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def services() -> dict[str, dict[str, Any]]:
    return dict(compose()["services"])


def environment(name: str) -> dict[str, str]:
    return dict(services()[name].get("environment", {}))


@cache
def stages() -> dict[str, list[str]]:
    """The Dockerfile's instructions by stage, continued lines joined, without comments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("FROM "):
            current = line.rsplit(" AS ", 1)[1]
            found[current] = []
        if line.strip():
            found[current].append(" ".join(line.split()))
    return found


def lineage(stage: str) -> list[str]:
    """A stage's instructions after those of the stages that it stands on."""
    base = stages()[stage][0].split()[1]
    return (lineage(base) if base in stages() else []) + stages()[stage]


def last(stage: str, instruction: str) -> str:
    return [line for line in lineage(stage) if line.startswith(f"{instruction} ")][-1].split(" ", 1)[1]


def locked(name: str) -> set[str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))


# --- the compose file --------------------------------------------------------------------------
def test_the_file_fits_the_compose_specifications_schema() -> None:
    jsonschema = pytest.importorskip(
        "jsonschema", reason="check-jsonschema brings the schema and its checker"
    )
    pytest.importorskip("check_jsonschema")
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(compose(), json.loads(schema.read_text()))


def answers(command: list[str]) -> bool:
    return shutil.which(command[0]) is not None and not subprocess.call(
        [*command, "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def test_docker_compose_itself_reads_the_file(tmp_path: Path) -> None:
    found = [c for c in (["docker-compose"], ["docker", "compose"]) if answers(c)]
    if not found:
        pytest.skip("no docker compose on this machine")
    project = copy_project(tmp_path)
    subprocess.run(["sh", "deploy/prepare.sh"], cwd=project, check=True)
    subprocess.run([*found[0], "--profile", "*", "config", "--quiet"], cwd=project, check=True)


def test_every_process_of_the_one_machine_stack_is_a_service_with_the_same_command() -> None:
    for name, command in embedded.commands().items():
        service = services()[name]
        given = service.get("command") or json.loads(last(service["build"]["target"], "CMD"))
        if given[0] == "python":
            given = given[2:]
        assert given == command[command.index("-m") + 1 :], name


def test_services_need_only_services_and_volumes_that_exist() -> None:
    for service in services().values():
        assert service.get("depends_on", {}).keys() <= services().keys()
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).is_dir()
            else:
                assert source in compose()["volumes"]
        assert set(service.get("secrets", [])) <= compose()["secrets"].keys()


def test_a_service_waits_only_for_what_can_become_healthy() -> None:
    for service in services().values():
        for needed, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services()[needed]
            else:
                assert condition["condition"] == "service_completed_successfully"
                assert services()[needed]["restart"] == "no"


@pytest.mark.parametrize("name", ["postgres", "redis", "api", "events", "training-head", "tls", "tfserving"])
def test_whatever_can_be_asked_has_a_health_check(name: str) -> None:
    check = services()[name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries"} <= check.keys()


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_root_no_capabilities_and_a_read_only_system(name: str) -> None:
    service = services()[name]
    assert service["user"].startswith("${RUN_AS:?")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "docker.sock" not in json.dumps(service)


def test_passwords_are_in_files_and_nowhere_else() -> None:
    for name, service in services().items():
        for variable, value in environment(name).items():
            assert not re.search(r"PASSWORD$|DATABASE_URL$|REDIS_URL$", variable), (name, variable)
            if variable.endswith("_FILE"):
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    for secret in compose()["secrets"].values():
        assert Path(secret["file"]).parent == Path("deploy/secrets")
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", OURS)
def test_our_containers_get_only_settings_that_exist(name: str) -> None:
    known = {f"BACKTALK_{field}".upper() for field in Settings.model_fields}
    image = services()[name]["build"]["target"]
    baked = {word for line in lineage(image) if line.startswith("ENV ") for word in line.split()}
    given = {*environment(name), *(word.split("=")[0] for word in baked)}
    assert {v.removesuffix("_FILE") for v in given if v.startswith("BACKTALK_")} <= known


def test_only_the_migration_knows_the_owner_of_the_tables() -> None:
    for name, service in services().items():
        secrets = set(service.get("secrets", []))
        assert ("migration_url" in secrets) == (name == "migrate"), name
        assert "postgres_password" not in secrets or name == "postgres"


def test_every_image_has_a_tag_that_is_not_latest() -> None:
    for service in services().values():
        _, _, tag = service["image"].partition(":")
        assert tag
        assert tag != "latest"


def test_the_tls_front_alone_is_published_to_others_than_this_machine() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published.keys() == {"api", "tfserving", "tls"}
    assert all(port.endswith((":8443", ":8080")) for port in published.pop("tls"))
    for ports in published.values():
        assert all("127.0.0.1:" in port for port in ports)


def test_the_api_believes_the_tls_front_and_nobody_else() -> None:
    front = services()["tls"]["networks"]["front"]["ipv4_address"]
    trusted = Settings(trusted_proxies=environment("api")["BACKTALK_TRUSTED_PROXIES"]).trusted_networks
    assert [str(network) for network in trusted] == [f"{front}/32"]
    (subnet,) = compose()["networks"]["front"]["ipam"]["config"]
    members = {front, services()["api"]["networks"]["front"]["ipv4_address"]}
    assert len(members) == 2
    assert all(ip_address(member) in ip_network(subnet["subnet"]) for member in members)
    assert {name for name, service in services().items() if "front" in service.get("networks", {})} == {
        "api",
        "tls",
    }


def test_the_tls_front_takes_no_more_and_waits_no_shorter_than_the_api() -> None:
    said = (ROOT / "deploy" / "tls" / "nginx.conf").read_text()
    found = dict(re.findall(r"^\s*(\w+) (\S+);", said, re.MULTILINE))
    conf = runpy.run_path(str(ROOT / "services" / "gunicorn_conf.py"))
    settings = Settings()
    body = settings.max_image_bytes * 4 // 3 + 64 * 1024
    assert body < int(found["client_max_body_size"].removesuffix("m")) * 2**20 < 1.1 * body
    assert int(found["proxy_read_timeout"].removesuffix("s")) > conf["timeout"]
    upstream = re.search(r"upstream api \{[^}]*keepalive_timeout (\d+)s", said)
    assert upstream is not None
    assert int(upstream[1]) < conf["keepalive"]
    assert found["proxy_next_upstream"] == "off"


def test_redis_is_a_queue_and_not_a_cache() -> None:
    settings = dict(
        line.split(maxsplit=1)
        for line in (ROOT / "deploy/redis/redis.conf").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"


def test_tensorflow_serving_sees_the_store_where_models_config_says(tmp_path: Path) -> None:
    store = VersionStore(tmp_path, Settings.model_fields["serving_prefix"].default)
    store.write_models_config({"digits": 1})
    service = services()["tfserving"]
    (mount,) = service["volumes"]
    source, target, mode = mount.split(":")
    assert mode == "ro"
    assert f'base_path: "{target}/digits"' in store.models_config_path.read_text()
    assert f"--model_config_file={target}/models.config" in service["command"]
    assert any(word.startswith("--model_config_file_poll_wait_seconds=") for word in service["command"])
    assert [port.rpartition(":")[2] for port in service["ports"]] == ["8501", "8500"]  # REST and gRPC
    assert f"{source}:/models" in services()["training-head"]["volumes"]
    assert "BACKTALK_STORE=/models" in " ".join(lineage("worker"))


def test_workers_stop_within_the_time_that_compose_gives_them() -> None:
    grace_s = Settings.model_fields["worker_grace_s"].default
    for name in ("events", "training-head"):
        assert int(services()[name]["stop_grace_period"].removesuffix("s")) > grace_s
        assert any("REMAP_SIGTERM=SIGQUIT" in line for line in lineage(services()[name]["build"]["target"]))


# --- the Dockerfile ----------------------------------------------------------------------------
@pytest.mark.parametrize("stage", ["api", "events", "worker"])
def test_images_end_as_a_user_who_is_not_root(stage: str) -> None:
    assert last(stage, "USER") == "${RUN_AS}:${RUN_AS}"
    (check,) = [line for line in stages()["runtime"] if line.startswith("RUN ")]
    assert check.startswith('RUN test "${RUN_AS}" -gt 0 &&')


def test_every_target_of_the_compose_file_is_a_stage() -> None:
    assert {
        service["build"]["target"] for service in services().values() if "build" in service
    } <= stages().keys()


def test_dependencies_are_installed_from_the_locks_with_hashes() -> None:
    installs = [
        line for lines in stages().values() for line in lines if " install " in line and "pip" in line
    ]
    assert installs
    for line in installs:
        from_lock = "--require-hashes" in line and "--only-binary :all:" in line
        own_wheel = "--no-deps --no-index /wheels/" in line
        assert from_lock or own_wheel, line
        for name in re.findall(r"/requirements/(\w+)\.txt", line):
            assert (ROOT / "requirements" / f"{name}.txt").is_file()


def test_the_build_tool_is_found_in_the_lock() -> None:
    text = (ROOT / "requirements/dev.txt").read_text()
    found = re.search(
        r"^setuptools==[\d.]+ \\\n(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+ +# via", text, re.MULTILINE
    )
    assert found, "the Dockerfile cuts the block from `setuptools==` to `# via` out of it"


@pytest.mark.parametrize(
    ("lock", "absent", "present"),
    [
        ("api", {"tensorflow", "keras", "celery"}, {"flask", "ai-edge-litert", "pillow"}),
        ("worker", {"tensorflow", "keras", "flask"}, {"celery", "ai-edge-litert", "pillow"}),
        ("train", {"flask"}, {"celery", "tensorflow", "keras"}),
    ],
)
def test_each_image_gets_the_frameworks_of_its_processes_only(
    lock: str, absent: set[str], present: set[str]
) -> None:
    assert not absent & locked(lock)
    assert present <= locked(lock)


def test_what_is_copied_is_not_ignored_and_exists() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [line for lines in stages().values() for line in lines if line.startswith("COPY ")]
    for line in copied:
        for source in line.split()[1:-1] if "--from=" not in line else ():
            assert (ROOT / source).exists()
            assert source.split("/")[0] in allowed


# --- deploy/ -----------------------------------------------------------------------------------
def copy_project(folder: Path) -> Path:
    project = folder / "project"
    shutil.copytree(ROOT / "deploy", project / "deploy", ignore=shutil.ignore_patterns("secrets"))
    for name in ("docker-compose.yml", "Dockerfile"):
        shutil.copy(ROOT / name, project)
    return project


def test_prepare_makes_secrets_that_fit_together_and_keeps_them(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    subprocess.run(["sh", "deploy/prepare.sh"], cwd=project, check=True)
    secrets = project / "deploy" / "secrets"
    first = {path.name: path.read_text() for path in secrets.iterdir()}
    assert first.keys() == compose()["secrets"].keys()
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert re.fullmatch("[0-9a-f]{48}", first["postgres_password"])
    assert first["postgres_password"] != first["redis_password"]
    user, database = environment("postgres")["POSTGRES_USER"], environment("postgres")["POSTGRES_DB"]
    expected = f"postgresql://{user}:{first['postgres_password']}@postgres:5432/{database}"
    assert first["migration_url"] == expected
    application = rf"postgresql://backtalk_app:([0-9a-f]{{48}})@postgres:5432/{database}"
    found = re.fullmatch(application, first["database_url"])
    assert found
    assert found[1] not in {first["postgres_password"], first["redis_password"]}
    assert first["redis_url"] == f"redis://:{first['redis_password']}@redis:6379/0"
    run_as = (project / ".env").read_text()
    assert re.fullmatch(r"RUN_AS=[1-9]\d*\n", run_as)
    assert run_as == f"RUN_AS={os.getuid() or 10001}\n"

    subprocess.run(["sh", "deploy/prepare.sh"], cwd=project, check=True)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == first
    assert (project / ".env").read_text() == run_as


def test_settings_take_what_prepare_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = copy_project(tmp_path)
    subprocess.run(["sh", "deploy/prepare.sh"], cwd=project, check=True)
    for name, value in environment("api").items():
        if name.endswith("_FILE"):
            secret = value.removeprefix("/run/secrets/")
            monkeypatch.setenv(name, str(project / "deploy" / "secrets" / secret))
    settings = Settings.load()
    assert str(settings.database_url).startswith("postgresql+psycopg://backtalk_app:")
    assert str(settings.redis_url).startswith("redis://:")
