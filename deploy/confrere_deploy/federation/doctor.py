"""What is right and wrong with an installation, each finding with its remedy."""

import importlib.metadata
import os
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.request import getproxies, proxy_bypass

import httpx
import torch
from rich.console import Console

from confrere_client.data.images import Images
from confrere_client.hospital.policy import Policy, read_policy
from confrere_client.hospital.registry import Registered, images_for, registered
from confrere_client.hospital.site import SiteFolder
from confrere_common.chain import verify
from confrere_common.config import Run
from confrere_common.errors import ConfrereError
from confrere_common.pki.certificate import certificates_in, needs_renewal
from confrere_common.pki.tls import client_context
from confrere_server.membership.roster import read_roster
from confrere_server.membership.workspace import Workspace
from confrere_server.watch.health import is_healthy

Grade: TypeAlias = Literal["good", "warning", "bad"]

FREE_GB = 5.0
"""Free disk below which checkpoints and caches may fail."""

SKEW_S = 60.0
"""Difference of clocks from which logs of both sides can no longer be read side by side."""

PROBE_BYTES = 4 * 2**20
"""Sent to the server and back to measure the line."""

SLOW_MB_S = 0.5
"""A 44 MB model takes over a minute each way on a line slower than this."""

COLOURS = {"good": "green", "warning": "yellow", "bad": "red"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    grade: Grade
    told: str
    remedy: str = ""


def report(findings: Iterator[Finding], console: Console) -> int:
    """Print the findings as they come; return 1 when anything is bad, else 0."""
    worst = 0
    for finding in findings:
        colour = COLOURS[finding.grade]
        console.print(f"{finding.grade:<8}", style=colour, end="")
        console.print(f" {finding.subject:<16} ", markup=False, end="")
        console.print(finding.told, markup=False)
        if finding.remedy:
            console.print(f"{'':<26}{finding.remedy}", markup=False, style="dim")
        worst = max(worst, int(finding.grade == "bad"))
    return worst


def server_findings(workspace: Workspace) -> Iterator[Finding]:
    """Yield what there is to say of a coordinator's machine."""
    yield from _machine(workspace.folder)
    chain = workspace.server_chain
    yield _safely("certificate", lambda: _certificate(chain, "confrere server renew"))
    yield _safely("roster", lambda: _roster(workspace))
    key = workspace.signing_key
    yield _safely("audit log", lambda: _audit(workspace.audit, key().public_key()))
    kept = (workspace.ca / "root.key").exists()
    yield Finding(
        subject="root key",
        grade="warning" if kept else "good",
        told="lies on this machine" if kept else "is not on this machine",
        remedy="Move ca/root.key to a safe place: only a root's rollover needs it." if kept else "",
    )
    yield _serving(workspace)


def client_findings(site: SiteFolder) -> Iterator[Finding]:
    """Yield what there is to say of a hospital's machine."""
    yield from _machine(site.folder)
    yield _gpu()
    chain, key = site.site_chain, site.signing_key
    yield _safely("certificate", lambda: _certificate(chain, "confrere client renew"))
    yield _safely("audit log", lambda: _audit(site.audit, key().public_key()))
    yield _safely("policy", lambda: _policy(site))
    yield from _line(site)
    yield from _data(site)


def _machine(folder: Path) -> Iterator[Finding]:
    versions = {name: importlib.metadata.version(name) for name in ("confrere", "flwr", "torch")}
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding(subject="versions", grade="good", told=f"Python {sys.version.split()[0]}, {told}")
    free = shutil.disk_usage(folder).free / 1e9
    full = free < FREE_GB
    yield Finding(
        subject="disk",
        grade="warning" if full else "good",
        told=f"{free:.1f} GB free",
        remedy=f"Free some: less than {FREE_GB:g} GB may not hold cache and checkpoints."
        if full
        else "",
    )
    page = os.sysconf("SC_PAGE_SIZE")
    available, total = (page * os.sysconf(f"SC_{kind}_PAGES") for kind in ("AVPHYS", "PHYS"))
    little = available < 2 * 2**30
    yield Finding(
        subject="memory",
        grade="warning" if little else "good",
        told=f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB free",
        remedy="A ResNet-50 at 224 px wants about 2 GiB and more with its batch." if little else "",
    )


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        return Finding(
            subject="GPU",
            grade="warning",
            told="none that torch can use; it trains on the CPU",
            remedy="Fine for trying out. Else install the NVIDIA driver and torch's CUDA build.",
        )
    name = torch.cuda.get_device_name(0)
    free, total = torch.cuda.mem_get_info(0)
    told = f"{torch.cuda.device_count()} x {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB"
    return Finding(subject="GPU", grade="good", told=f"{told} free")


def _certificate(path: Path, renew: str) -> Finding:
    subject = "certificate"
    certificate = certificates_in(path.read_bytes())[0]
    now, ends = datetime.now(UTC), certificate.not_valid_after_utc
    days = (ends - now).days
    if ends < now:
        told = f"ended on {ends:%Y-%m-%d}"
        remedy = "Ask the coordinator for a new invitation (invite SITE --again)."
        return Finding(subject=subject, grade="bad", told=told, remedy=remedy)
    due = needs_renewal(certificate, now)
    return Finding(
        subject=subject,
        grade="warning" if due else "good",
        told=f"good for {days} more days",
        remedy=f"Due: keep the process running, or {renew}." if due else "",
    )


def _audit(path: Path, key: object) -> Finding:
    found = verify(path, key)  # type: ignore[arg-type]
    if found.faults:
        remedy = "Keep the file as evidence, and find out who could write there."
        return Finding(subject="audit log", grade="bad", told=found.faults[0], remedy=remedy)
    return Finding(subject="audit log", grade="good", told=f"{found.length} rows, whole")


def _roster(workspace: Workspace) -> Finding:
    sites = read_roster(workspace).sites
    active = sum(site.state == "active" for site in sites.values())
    return Finding(subject="roster", grade="good", told=f"{active} active of {len(sites)}, sealed")


def _serving(workspace: Workspace) -> Finding:
    if is_healthy(workspace.folder):
        return Finding(subject="server", grade="good", told=f"serves on {workspace.listen}")
    with socket.socket() as probe:
        busy = probe.connect_ex(("127.0.0.1", workspace.listen.port)) == 0
    if busy:
        told = f"does not run, and something else holds port {workspace.listen.port}"
        remedy = "End that program, or change address and listen in server.yaml."
        return Finding(subject="server", grade="bad", told=told, remedy=remedy)
    remedy = f"confrere server start --dir {workspace.folder}"
    return Finding(subject="server", grade="warning", told="does not run", remedy=remedy)


def _policy(site: SiteFolder) -> Finding:
    policy = read_policy(site.policy)
    ahead = bool(policy.preapproved or policy.preapproved_classes)
    return Finding(
        subject="policy",
        grade="good",
        told="lets some runs go ahead by themselves" if ahead else "every run waits for a person",
    )


def _line(site: SiteFolder) -> Iterator[Finding]:
    """Yield name, connection, TLS, clock and speed, as far as one gets."""
    host, port = site.address
    proxy = "https" in getproxies() and not proxy_bypass(host)
    if not proxy:
        try:
            socket.create_connection((host, port), timeout=10).close()
        except OSError as fault:
            yield Finding(
                subject="connection",
                grade="bad",
                told=f"{site.address}: {fault.strerror or type(fault).__name__}",
                remedy="Ask IT to let this machine connect out to that host and port, or set "
                "HTTPS_PROXY.",
            )
            return
    yield Finding(
        subject="connection",
        grade="good",
        told=f"{site.address} {'through the proxy' if proxy else 'directly'}",
    )
    yield from _spoken(site)


def _spoken(site: SiteFolder) -> Iterator[Finding]:
    body = bytes(PROBE_BYTES)
    try:
        tls = client_context(site.site_chain, site.site_key, site.root)
        with httpx.Client(base_url=f"https://{site.address}", verify=tls, timeout=60) as line:
            said = line.get("/health")
            ahead = parsedate_to_datetime(said.headers["date"]) - datetime.now(UTC)
            began = time.perf_counter()
            back = line.post("/v1/echo", content=body)
            seconds = time.perf_counter() - began
    except (httpx.HTTPError, ssl.SSLError, KeyError, ValueError, ConfrereError) as fault:
        told = f"the handshake failed: {type(fault).__name__}: {fault}"[:200]
        remedy = "Is it the study's server? A proxy that opens TLS must let this host through."
        yield Finding(subject="TLS", grade="bad", told=told, remedy=remedy)
        return
    if said.status_code != 200:
        remedy = "Ask the coordinator: the site may have been revoked, or its certificate replaced."
        yield Finding(subject="TLS", grade="bad", told=f"refused: {said.text[:100]}", remedy=remedy)
        return
    yield Finding(subject="TLS", grade="good", told="1.3, both sides known to each other")
    yield _clock(-ahead.total_seconds())
    speed = 2 * len(back.content) / seconds / 1e6
    slow = speed < SLOW_MB_S
    yield Finding(
        subject="line",
        grade="warning" if slow else "good",
        told=f"{speed:.1f} MB/s, there and back",
        remedy="Rounds will be slow: prefer a smaller encoder, or fewer and longer rounds."
        if slow
        else "",
    )


def _clock(off_s: float) -> Finding:
    bad = abs(off_s) > SKEW_S
    remedy = "Switch on NTP. Rounds work all the same; logs will not match." if bad else ""
    told = f"{off_s:+.0f} s off the server's"
    return Finding(subject="clock", grade="warning" if bad else "good", told=told, remedy=remedy)


def _data(site: SiteFolder) -> Iterator[Finding]:
    try:
        entries = registered(site.folder)
    except ConfrereError as fault:
        yield Finding(subject="data", grade="bad", told=str(fault), remedy="Mend data.yaml.")
        return
    if not entries:
        remedy = "confrere client data add NAME PATH"
        yield Finding(subject="data", grade="warning", told="none is registered", remedy=remedy)
    for name, entry in entries.items():
        yield _safely(f"data {name}", lambda e=entry, n=name: _dry_round(site, n, e))  # type: ignore[misc]


def _dry_round(site: SiteFolder, name: str, entry: Registered) -> Finding:
    """Train two steps of a small network on the site's own images; nothing is kept or sent.

    Images that are only scored are read and not trained on.
    """
    from confrere_client.train import Place, Trainer
    from confrere_common.model import build_model, shared_weights

    policy = read_policy(site.policy)
    run = _dry_run(entry, policy, site)
    images = _some(entry, run, policy, site)
    if entry.only_scored:
        told = f"{entry.images} images, all marked 'test': scored on only; {len(images)} were read"
        return Finding(subject=f"data {name}", grade="good", told=told)
    trainer = Trainer(run)
    place = Place(site=site.config.site, round=1, seed=0)
    began = time.perf_counter()
    trainer.round(shared_weights(build_model(run, 0)), {}, images, place=place)
    seconds = time.perf_counter() - began
    told = f"{entry.images} images; a dry round of 2 steps took {seconds:.1f} s on {trainer.device}"
    return Finding(subject=f"data {name}", grade="good", told=told)


def _dry_run(entry: Registered, policy: Policy, site: SiteFolder) -> Run:
    from confrere_client.hospital.policy import effective
    from confrere_common.loading import COMMON_FAMILIES, parse_run

    plain = {
        "name": "dry",
        "method": "byol",
        "data": {"source": {"name": "site", "dataset": entry.name}, "image_px": 32},
        "encoder": {"name": "resnet", "width": 8},
        "train": {"batch": 8, "steps_per_round": 2},
    }
    run = parse_run(plain, COMMON_FAMILIES)
    images = _some(entry, run, policy, site)
    shape = {"channels": images.channels, "dims": images.dims}
    settled = parse_run({**plain, "data": {**plain["data"], **shape}}, COMMON_FAMILIES)  # type: ignore[dict-item]
    return effective(settled, policy)


def _some(entry: Registered, run: Run, policy: Policy, site: SiteFolder) -> Images:
    part = "test" if entry.only_scored else "train"
    at_most = policy.max_images or 256
    return images_for(entry, run, site.folder / "cache", at_most=at_most, part=part)


def _safely(subject: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except (ConfrereError, OSError, RuntimeError) as fault:
        return Finding(subject=subject, grade="bad", told=str(fault)[:300])
