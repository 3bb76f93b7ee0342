"""What deploy ships beside its code is sound as far as a machine without a daemon can tell.

The tools are the real ones: hadolint, Docker Compose, Helm's own library, Kubernetes' schemas,
systemd-analyze. Nothing is built, pulled or started.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

MISSING = "the extra 'lint' is not installed: pip install -c constraints.txt -e '.[lint]'"
helm_python = pytest.importorskip("helm_python", reason=MISSING)
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason=MISSING)

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
IMAGES = sorted((DEPLOY / "docker-images").glob("*/Dockerfile"))
LOCKS = sorted((DEPLOY / "docker-images" / "locked").glob("c*.txt"))
COMPOSED = sorted((DEPLOY / "compose-files").glob("*.yaml"))
UNITS = sorted((DEPLOY / "systemd-units").glob("*.service"))
CHART = DEPLOY / "charts" / "confrere-server"
KUBERNETES = "1.30"

HOST: Mapping[str, Any] = {"study": {"host": "fl.example.org"}}
ALL_VALUES: Mapping[str, Any] = {
    "study": {"name": "eyes-2026", "host": "fl.example.org", "port": 9443},
    "image": {"repository": "registry.example.org/confrere", "digest": "sha256:" + "a" * 64},
    "imagePullSecrets": ["registry"],
    "verbose": False,
    "persistence": {"storageClass": "fast", "accessMode": "ReadWriteOncePod"},
    "service": {"type": "ClusterIP", "annotations": {"example.org/a": "b"}},
    "networkPolicy": {"from": ["192.0.2.0/24"]},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "federation", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}


def called(path: Path) -> str:
    return str(path.relative_to(DEPLOY)) if path.is_relative_to(DEPLOY) else str(path)


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Return what a tool says; fail with all of it if it finds something."""
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tool(name: str) -> Path:
    """Return a tool that the extra 'lint' brings, from this environment and from no other."""
    found = Path(sys.executable).parent / name
    assert found.exists(), f"{name} is missing: pip install -c constraints.txt -e '.[lint]'"
    return found


# --- images


@pytest.mark.parametrize("path", IMAGES, ids=called)
def test_hadolint_finds_nothing_in_an_image(path: Path) -> None:
    run(tool("hadolint"), "--no-color", path)


@pytest.mark.parametrize("path", IMAGES, ids=called)
def test_an_image_stands_on_a_digest_and_runs_as_nobody_in_particular(path: Path) -> None:
    steps = instructions(path)
    last = steps[last_stage(steps) :]

    bases = [rest.split()[0] for word, rest in steps if word == "FROM"]
    declared = dict(rest.split("=", 1) for word, rest in steps if word == "ARG")

    assert set(bases) == {"${PYTHON}"}
    assert re.fullmatch(
        r"docker\.io/library/python:3\.11-\S+@sha256:[0-9a-f]{64}", declared["PYTHON"]
    )
    assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    assert any(word == "HEALTHCHECK" and "NONE" not in rest for word, rest in last)
    assert not [word for word, _ in steps if word == "ADD"]


@pytest.mark.parametrize("path", IMAGES, ids=called)
def test_an_image_installs_only_what_is_hashed(path: Path) -> None:
    text = re.sub(r"\\\n", " ", path.read_text())
    installs = re.findall(r"pip\S*(?: --python \S+)? (?:install|wheel)[^&\n]*", text)

    assert installs
    assert all("--require-hashes" in call or "--no-index" in call for call in installs)
    assert "apt-get" not in text
    assert "curl" not in text


@pytest.mark.parametrize("path", IMAGES, ids=called)
def test_a_build_sees_only_what_it_copies(path: Path) -> None:
    ignored = path.with_name("Dockerfile.dockerignore").read_text().splitlines()
    shown = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions(path)
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }

    assert "*" in ignored
    assert all((ROOT / name).exists() for name in shown)
    assert all(any(source.startswith(name) for name in shown) for source in copied)


def test_the_images_stand_on_the_same_digest() -> None:
    bases = {rest for path in IMAGES for word, rest in instructions(path) if word == "ARG"}

    assert len(IMAGES) == 3
    assert len(bases) == 1


@pytest.mark.parametrize("path", LOCKS, ids=called)
def test_a_lock_has_all_that_the_product_needs_in_the_versions_of_the_constraints(
    path: Path,
) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = {canonical(re.split(r"[\[<>=!~ ;]", entry)[0]) for entry in wanted}
    tried = versions((ROOT / "constraints.txt").read_text())
    locked = versions(path.read_text())

    changed = {name: (v, tried[name]) for name, v in locked.items() if tried.get(name, v) != v}

    advice = f"lock anew: the command stands at the head of {path.name}"
    assert not needed - set(locked), advice
    assert not changed, advice


@pytest.mark.parametrize("path", sorted(LOCKS[0].parent.iterdir()), ids=called)
def test_every_package_of_a_lock_has_its_hashes(path: Path) -> None:
    entries = re.split(r"\n(?=\S)", path.read_text().split("\n", 3)[-1].strip())

    bare = [entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)]

    assert entries
    assert not bare


# --- compose files


@cache
def composed(path: Path) -> Mapping[str, Any]:
    """Return a compose file as Docker Compose understands it, every profile on."""
    env = {"PATH": "", "HOME": "/nonexistent", "CONFRERE_IMAGES": "/srv/images"}
    said = run(
        tool("docker-compose"), "--env-file", "/dev/null", "--file", path, "--profile", "*",
        "config", "--format", "json", env=env,
    )  # fmt: skip
    return json.loads(said)


@pytest.mark.parametrize("path", COMPOSED, ids=called)
def test_a_composed_service_is_hardened(path: Path) -> None:
    services = composed(path)["services"]

    assert services
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001"
        assert service["stop_grace_period"] == "1m0s"
        assert all(":size=" in entry for entry in service["tmpfs"])
        assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service)


@pytest.mark.parametrize("path", COMPOSED, ids=called)
def test_composed_services_write_to_named_volumes_only(path: Path) -> None:
    document = composed(path)

    mounts = [m for service in document["services"].values() for m in service["volumes"]]

    assert all(m["type"] == "volume" or m["read_only"] for m in mounts)
    assert {m["source"] for m in mounts if m["type"] == "volume"} == set(document["volumes"])


@pytest.mark.parametrize("path", COMPOSED, ids=called)
def test_composed_services_are_built_from_images_that_exist(path: Path) -> None:
    for service in composed(path)["services"].values():
        assert (ROOT / service["build"]["dockerfile"]) in IMAGES
        assert Path(service["build"]["context"]) == ROOT


def test_only_the_coordinator_has_a_port() -> None:
    ports = {
        (path.stem, name): service["ports"]
        for path in COMPOSED
        for name, service in composed(path)["services"].items()
        if "ports" in service
    }

    assert set(ports) == {("coordinator", "server")}
    assert ports["coordinator", "server"][0]["published"] == "8443"


def test_a_hospital_lends_its_images_unwritably_and_reserves_a_gpu_only_under_its_profile() -> None:
    services = composed(DEPLOY / "compose-files" / "hospital.yaml")["services"]

    lent = [m for s in services.values() for m in s["volumes"] if m["target"] == "/images"]
    devices = services["client-gpu"]["deploy"]["resources"]["reservations"]["devices"]

    assert {name: service["profiles"] for name, service in services.items()} == {
        "client": ["cpu"],
        "client-gpu": ["gpu"],
    }
    assert len(lent) == 2
    assert all(mount["read_only"] for mount in lent)
    assert devices[0]["capabilities"] == ["gpu"]
    assert "deploy" not in services["client"]


def test_the_demo_has_no_way_out() -> None:
    document = composed(DEPLOY / "compose-files" / "demo.yaml")

    assert [network["internal"] for network in document["networks"].values()] == [True]


# --- systemd


def settings(unit: Path) -> Mapping[str, str]:
    """Return what a unit says, the last word of each directive."""
    lines = [line for line in unit.read_text().splitlines() if "=" in line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def analyzer() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("there is no systemd-analyze on this machine")
    return found


@pytest.mark.parametrize("unit", UNITS, ids=called)
def test_systemd_understands_a_unit(unit: Path, analyzer: str, tmp_path: Path) -> None:
    there = Path(shutil.copytree(unit.parent, tmp_path / "units")) / unit.name
    # It looks whether the command exists, which it does where the product is installed.
    there.write_text(unit.read_text().replace("/opt/confrere/bin/confrere", sys.executable))

    said = run(analyzer, "verify", "--man=no", there)

    assert not said


@pytest.mark.parametrize("unit", UNITS, ids=called)
def test_a_unit_is_exposed_little(unit: Path, analyzer: str) -> None:
    run(analyzer, "security", "--offline=true", "--threshold=15", unit)


@pytest.mark.parametrize("unit", UNITS, ids=called)
def test_a_unit_is_started_again_and_stopped_gently(unit: Path) -> None:
    said = settings(unit)

    assert said["Restart"] == "always"
    assert said["KillSignal"] == "SIGTERM"
    assert int(said["TimeoutStopSec"]) > 35  # the server: 5 s for connections, 30 s for the round
    assert said["ProtectSystem"] == "strict"
    assert said["User"] == "confrere"


# --- chart


def rendered(values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(dict(values))
        texts = chart.render(dict(values), name="eyes", namespace="federation")
    for name, text in texts.items():
        if name.endswith(".yaml"):
            yield from filter(None, yaml.safe_load_all(text))


def rendered_as(kind: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(found for found in rendered(values) if found["kind"] == kind)


@pytest.mark.parametrize("values", [HOST, ALL_VALUES], ids=["fewest", "all"])
def test_helm_finds_nothing_in_the_chart(values: Mapping[str, Any]) -> None:
    report = helm_python.lint(CHART, dict(values), strict=True)

    assert not report["errors"]
    assert {message["error"] for message in report["messages"]} <= {"icon is recommended"}


@pytest.mark.parametrize("values", [HOST, ALL_VALUES], ids=["fewest", "all"])
def test_what_the_chart_renders_to_is_what_kubernetes_takes(values: Mapping[str, Any]) -> None:
    objects = list(rendered(values))

    for found in objects:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
    assert {found["kind"] for found in objects} == {"StatefulSet", "Service", "NetworkPolicy"}


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({}, "/study/host"),
        ({"study": {"host": "fl.example.org", "port": 443}}, "/study/port"),
        ({**HOST, "replicas": 2}, "replicas"),
        ({**HOST, "image": {"digest": "latest"}}, "/image/digest"),
        ({**HOST, "terminationGracePeriodSeconds": 30}, "/terminationGracePeriodSeconds"),
    ],
)
def test_the_chart_refuses_values_that_cannot_work(wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=where):
        list(rendered(wrong))


def test_a_pod_of_the_chart_is_confined() -> None:
    pod = rendered_as("StatefulSet", HOST)["spec"]["template"]["spec"]

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["terminationGracePeriodSeconds"] > 35
    for container in [*pod["initContainers"], *pod["containers"]]:
        confined = container["securityContext"]
        assert confined["readOnlyRootFilesystem"] is True
        assert confined["allowPrivilegeEscalation"] is False
        assert confined["capabilities"] == {"drop": ["ALL"]}


def test_the_network_policy_lets_in_the_public_port_and_nothing_out() -> None:
    policy = rendered_as("NetworkPolicy", HOST)["spec"]

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    assert [entry["ports"] for entry in policy["ingress"]] == [[{"port": "federation"}]]


def test_every_value_of_the_chart_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()

    bare = [
        line
        for before, line in pairwise(lines)
        if re.match(r"(  )?\w+: +\S", line) and not before.lstrip().startswith("#")
    ]

    assert not bare


# --- reading


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, each with the rest of its line."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def last_stage(steps: list[tuple[str, str]]) -> int:
    return max(place for place, (word, _) in enumerate(steps) if word == "FROM")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(text: str) -> dict[str, str]:
    """Return package -> version, without the mark of torch's build."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s+]+)", text, flags=re.MULTILINE)
    return {canonical(name): version for name, version in found}
