"""The doctor finds what is wrong, at both ends, and says what to do about it."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from loopback import free_port, make_workspace
from rich.console import Console
from served import enrolled, make_study, served

from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder, open_site
from confrere_common.pki.certificate import pem_of, request_for
from confrere_common.pki.keys import read_tls_key
from confrere_deploy.federation import doctor
from confrere_deploy.federation.doctor import Finding, client_findings, report, server_findings
from confrere_server.membership.authority import issue_site, make_issuing, make_root
from confrere_server.membership.roster import revoke
from confrere_server.membership.workspace import Workspace
from confrere_server.start import Server


@dataclass(frozen=True)
class Clinic:
    server: Server
    folder: Path

    def site(self, name: str) -> SiteFolder:
        return enrolled(self.server.workspace, self.folder / name, name, "{min_images: 4}")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("clinic")
    with served(make_study(folder / "study")) as server:
        yield Clinic(server, folder)


def by_subject(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_a_sound_site_is_found_so(clinic: Clinic) -> None:
    site = clinic.site("sound")
    knobs = {"images": 24, "patients": 12, "sites": 1}
    add(site.folder, "lesions", "", source="phantom", knobs=knobs)

    found = by_subject(client_findings(site))

    good = {subject for subject, finding in found.items() if finding.grade == "good"}
    assert good >= {"versions", "certificate", "audit log", "policy", "connection", "TLS", "clock",
                    "line", "data lesions"}  # fmt: skip
    assert "dry round" in found["data lesions"].told
    assert "every run waits" in found["policy"].told
    assert not [one for one in found.values() if one.grade != "good" and not one.remedy]


def test_a_site_that_is_only_scored_is_sound(clinic: Clinic) -> None:
    site = clinic.site("scored")
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 16), dtype=np.uint8)
    np.savez(site.folder / "tests.npz", test_images=pixels)
    add(site.folder, "tests", site.folder / "tests.npz")

    (found,) = doctor._data(site)

    assert found.grade == "good"
    assert found.told == "12 images, all marked 'test': scored on only; 12 were read"


def test_a_site_without_data_is_told_how_to_lend_some(clinic: Clinic) -> None:
    found = by_subject(client_findings(clinic.site("bare")))

    assert found["data"].grade == "warning"
    assert "data add" in found["data"].remedy


def test_a_revoked_site_learns_that_it_is_refused(clinic: Clinic) -> None:
    site = clinic.site("gone")
    revoke(clinic.server.workspace, "gone", "left")

    found = by_subject(client_findings(site))

    assert found["TLS"].grade == "bad"
    assert "roster" in found["TLS"].told
    assert "coordinator" in found["TLS"].remedy
    assert "line" not in found


def test_a_server_of_another_study_is_not_spoken_to(clinic: Clinic, tmp_path: Path) -> None:
    site = clinic.site("lost")
    other = make_workspace(tmp_path / "other")
    site.root.write_bytes(other.root.read_bytes())

    found = by_subject(client_findings(site))

    assert found["TLS"].grade == "bad"
    assert "handshake failed" in found["TLS"].told


def test_a_port_that_nobody_answers_is_told(clinic: Clinic) -> None:
    site = clinic.site("cut")
    settings = site.settings.read_text()
    port = str(site.address.port)
    site.settings.write_text(settings.replace(port, str(free_port())))

    found = by_subject(client_findings(open_site(site.folder)))

    assert found["connection"].grade == "bad"
    assert "HTTPS_PROXY" in found["connection"].remedy


def test_what_is_damaged_at_a_site_is_named(clinic: Clinic) -> None:
    site = clinic.site("damaged")
    rows = site.audit.read_text().replace("joined", "parted")
    site.audit.write_text(rows)
    site.policy.write_text("odd: 1")
    site.data.write_text("derm: {odd: 1}")

    found = by_subject(client_findings(site))

    assert {name for name, one in found.items() if one.grade == "bad"} == {
        "audit log",
        "policy",
        "data",
    }


@pytest.mark.parametrize(("days", "grade"), [(100, "bad"), (80, "warning"), (1, "good")])
def test_a_certificate_is_judged_by_its_age(clinic: Clinic, days: int, grade: str) -> None:
    site = clinic.site(f"old-{days}")
    made = datetime.now(UTC) - timedelta(days=days)
    issuer = make_issuing(make_root("eyes", made), "eyes", made)
    csr = request_for(site.config.site, read_tls_key(site.site_key))
    site.site_chain.write_bytes(pem_of(issue_site(issuer, csr, site.config.site, made)))

    found = doctor._certificate(site.site_chain, "renew")

    assert found.grade == grade
    assert bool(found.remedy) == (grade != "good")


def test_rubbish_in_place_of_a_certificate_is_a_finding(clinic: Clinic) -> None:
    site = clinic.site("rubbish")
    site.site_chain.write_bytes(b"rubbish")

    found = by_subject(client_findings(site))

    assert found["certificate"].grade == "bad"
    assert found["TLS"].grade == "bad"


@pytest.mark.parametrize(("off_s", "grade"), [(0, "good"), (-59, "good"), (86400, "warning")])
def test_a_clock_is_judged_by_how_far_it_is_off(off_s: float, grade: str) -> None:
    assert doctor._clock(off_s).grade == grade


def test_a_running_server_is_found_so(clinic: Clinic) -> None:
    found = by_subject(server_findings(clinic.server.workspace))

    assert found["server"].grade == "good"
    assert found["roster"].grade == "good"
    assert found["root key"].grade == "warning"
    assert "safe place" in found["root key"].remedy


def test_a_server_that_is_down_or_shut_out_is_told(tmp_path: Path) -> None:
    import socket

    workspace = make_workspace(tmp_path / "study")
    down = by_subject(server_findings(workspace))["server"]
    with socket.create_server(("127.0.0.1", workspace.listen.port)):
        out = by_subject(server_findings(workspace))["server"]

    assert (down.grade, out.grade) == ("warning", "bad")
    assert "server start" in down.remedy
    assert str(workspace.listen.port) in out.told


def test_what_is_damaged_at_the_server_is_named(tmp_path: Path) -> None:
    workspace: Workspace = make_workspace(tmp_path / "study")
    plain = json.loads(workspace.roster.read_text())
    plain["roster"]["sites"]["eve"] = {"state": "active", "since": "now"}
    workspace.roster.write_text(json.dumps(plain))
    workspace.audit.write_text(workspace.audit.read_text().replace("eyes", "ears"))
    (workspace.ca / "root.key").unlink()

    found = by_subject(server_findings(workspace))

    assert found["roster"].grade == "bad"
    assert found["audit log"].grade == "bad"
    assert found["root key"].grade == "good"


def test_a_report_ends_with_1_when_anything_is_bad() -> None:
    text = io.StringIO()
    console = Console(file=text, width=200, highlight=False)
    good = Finding(subject="a", grade="good", told="[/nope] well")
    bad = Finding(subject="data [/x]", grade="bad", told="[red]ill", remedy="[/do] this")

    assert report(iter([good]), console) == 0
    assert report(iter([good, bad, good]), console) == 1
    assert "[/nope] well" in text.getvalue()
    assert "[/do] this" in text.getvalue()
