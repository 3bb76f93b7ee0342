"""A patient's name, planted wherever a hospital may have one, leaves it in no byte.

A whole federation runs: the real server and edge, a real daemon and its worker process. All that
crosses the edge is recorded, in clear, and so is all that the site's client sends and gets.
"""

import base64
import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from described import describing_run
from PIL import Image
from served import Folders, enrolled, federated, make_study, served, until

from confrere_client.daemon.fleet import Line
from confrere_client.daemon.loop import Daemon
from confrere_client.hospital.plans import decide, list_plans
from confrere_client.hospital.registry import add
from confrere_client.hospital.site import SiteFolder
from confrere_client.ingest.working.facts import digest_of
from confrere_common.codes import CODES
from confrere_common.marks import mark_of, salt_of
from confrere_deploy.federation.fetching import fetch
from confrere_server.runs.queue import Folder, submit
from confrere_server.start import Server
from confrere_server.transport.edge import App
from confrere_server.watch.observe import observer_token, plain_status

NAME = "SMITH^JOHN"


def needles() -> dict[str, bytes]:
    """Return the name as it might be written, each in lower case but for base64."""
    plain = NAME.encode()
    found = {"a part of it": b"smith", "another part": b"^john", "percent": b"%5ejohn"}
    for kind in ("utf-16-le", "utf-16-be", "utf-32-le"):
        found[kind] = NAME.lower().encode(kind)
    for text in (plain, plain.lower(), NAME.encode("utf-16-le")):
        found[f"hex {text!r}"] = text.hex().encode()
        found[f"reversed {text!r}"] = text[::-1].lower()
        for kind in ("md5", "sha1", "sha256"):
            found[f"{kind} {text!r}"] = hashlib.new(kind, text).hexdigest().encode()
            found[f"bare {kind} {text!r}"] = hashlib.new(kind, text).digest()
        for shift in range(3):
            inside = base64.b64encode(b"\x00" * shift + text).rstrip(b"=")
            found[f"base64 {text!r} at {shift}"] = inside[4 if shift else 0 : -2]
    return found


def found_in(content: bytes) -> list[str]:
    lower = content.lower()
    return [how for how, needle in needles().items() if needle in content or needle in lower]


@dataclass
class Tape:
    """What crossed the edge, and what the site's client saw of it."""

    edge: list[bytes] = field(default_factory=list)
    client: list[bytes] = field(default_factory=list)


def recording(app: App, tape: list[bytes]) -> App:
    async def recorded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            tape.append(scope["raw_path"] + b" " + scope["query_string"])
            tape.extend(name + b": " + value for name, value in scope["headers"])

        async def heard() -> Any:
            message = await receive()
            tape.append(message.get("body", b""))
            return message

        async def said(message: Any) -> None:
            tape.append(message.get("body", b""))
            tape.extend(name + b": " + value for name, value in message.get("headers", ()))
            await send(message)

        await app(scope, heard, said)

    return recorded


def watched(line: Line, tape: list[bytes]) -> Line:
    def asked(request: httpx.Request) -> None:
        tape.extend([str(request.url).encode(), request.read()])
        tape.extend(name + b": " + value for name, value in request.headers.raw)

    def answered(response: httpx.Response) -> None:
        tape.append(response.read())

    line._client._client.event_hooks = {"request": [asked], "response": [answered]}
    return line


def paint(folder: Path, count: int, damaged: int) -> Path:
    """Write images and their table, the name in every place that it can stand in."""
    folder.mkdir(parents=True)
    rows = [f"path,patient,label,split,{NAME}"]
    for number in range(count):
        path = folder / f"{NAME}_{number}.png"
        noise = np.random.default_rng(number).integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(noise).save(path)
        if number < damaged:
            path.write_bytes(NAME.encode() * 9)
        rows.append(f"{path.name},{NAME}-{number},{NAME},train,{NAME}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder / "table.csv"


@contextmanager
def at_work(site: SiteFolder, tape: list[bytes]) -> Iterator[Daemon]:
    class Watched(Daemon):
        def _line(self) -> Line:
            return watched(super()._line(), tape)

    daemon = Watched(site=site)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        yield daemon
    finally:
        daemon.stop.set()
        thread.join()


def approved(server: Server, site: SiteFolder) -> Folder:
    """Submit a run, and approve it with the name among the reasons."""
    run = submit(server.workspace.runs, federated(rounds=1))
    until(lambda: any(p.proposal.run_id == run.order.id for p in list_plans(site.folder)))
    decide(site.folder, run.order.id, "approve", NAME, why=f"as {NAME} wished")
    return run


def refusals(site: SiteFolder) -> list[str]:
    rows = [json.loads(line) for line in site.audit.read_text().splitlines()]
    return [row["facts"]["code"] for row in rows if row["event"] == "refused"]


@pytest.mark.parametrize("damaged", ["images", "table"])
def test_the_name_of_a_patient_leaves_in_no_byte(
    damaged: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tape = Tape()

    class Recorded(Server):
        def edge(self) -> Any:
            return recording(super().edge(), tape.edge)

    home = tmp_path / NAME
    table = paint(home / "images", 14, damaged=3)
    with served(make_study(tmp_path / "coordinator"), Recorded) as server:
        site = enrolled(server.workspace, home / "site", "north", "{min_sites: 1, min_images: 4}")
        add(site.folder, "derm", table)
        sound = {path: path.read_bytes() for path in table.parent.iterdir()}
        with at_work(site, tape.client):
            if damaged == "images":
                for path in table.parent.glob("*.png"):
                    path.write_bytes(b"\x89PNG" + NAME.encode())
            else:
                table.write_text(f"{NAME}\n{NAME}\n")
            run = approved(server, site)
            until(lambda: refusals(site), 60)
            for path, content in sound.items():
                path.write_bytes(content)
            until(lambda: run.standing.state == "done", 60)
    fetch(server.workspace, run, tmp_path / "fetched")

    assert set(refusals(site)) <= CODES.keys()
    logs = [
        f"{one.getMessage()} {one.exc_text or ''} {one.exc_info or ''}"
        for one in caplog.records
        if not one.name.startswith("confrere_client")
    ]
    status = json.dumps(plain_status(run))
    everywhere = {
        "the edge": b"\n".join(tape.edge),
        "the client's line": b"\n".join(tape.client),
        "the server's log": "\n".join(logs).encode(),
        "the observer's status": status.encode() + observer_token(server.workspace).encode(),
        **Folders(server.workspace).contents(),
        **{path.name: path.read_bytes() for path in (tmp_path / "fetched").iterdir()},
    }
    # Else it proves nothing: the name is at the site, an update crossed, and faults were met.
    assert found_in((site.folder / "data.yaml").read_bytes())
    assert not found_in((site.folder / "worker.log").read_bytes())
    assert sum(map(len, tape.edge)) > 10_000
    assert everywhere["the edge"].count(b"data_offsets") > 1
    assert {where: how for where, content in everywhere.items() if (how := found_in(content))} == {}


def test_where_hashes_of_images_leave_the_name_does_not_and_they_are_kept_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tape = Tape()

    class Recorded(Server):
        def edge(self) -> Any:
            return recording(super().edge(), tape.edge)

    home = tmp_path / NAME
    policy = "{min_sites: 1, min_images: 4, duplicates: true}"
    with served(make_study(tmp_path / "coordinator"), Recorded) as server, ExitStack() as stack:
        sites = []
        for name in ("north", "south"):  # of equal images: the same numbers draw them
            table = paint(home / name, 14, damaged=3)
            site = enrolled(server.workspace, home / f"site-{name}", name, policy)
            add(site.folder, "derm", table)
            stack.enter_context(at_work(site, tape.client))
            sites.append(site)
        federation = {"rounds": 1, "min_sites": 2, "quorum": 1.0}
        asked = describing_run(describe={"duplicates": True}, federation=federation)
        run = submit(server.workspace.runs, asked)
        for site in sites:
            until(partial(_planned, site, run.order.id))
            decide(site.folder, run.order.id, "approve", NAME, why=f"as {NAME} wished")
        until(lambda: run.standing.state in ("done", "failed"), 60)
    fetch(server.workspace, run, tmp_path / "fetched")

    report = json.loads((tmp_path / "fetched" / "report.json").read_text())
    kept = {
        "the log": "\n".join(one.getMessage() for one in caplog.records).encode(),
        **Folders(server.workspace).contents(),
        **{path.name: path.read_bytes() for path in (tmp_path / "fetched").iterdir()},
    }
    crossed = b"\n".join([*tape.edge, *tape.client])
    noise = [np.random.default_rng(n).integers(0, 256, (16, 16), np.uint8) for n in range(3, 14)]
    marks = [mark_of(digest_of(one[None]), salt_of(run.order.id)) for one in noise]
    assert [pair["images"] for pair in report["shared"]] == [11]
    assert all(mark in crossed for mark in marks)
    assert not found_in(crossed)
    for where, content in kept.items():
        assert not any(form in content for m in marks for form in (m, m.hex().encode())), where
        assert where == "the log" or not found_in(content), where


def _planned(site: SiteFolder, run_id: str) -> bool:
    return any(plan.proposal.run_id == run_id for plan in list_plans(site.folder))


@pytest.mark.parametrize(
    "written",
    [
        b"..SMITH^JOHN..", b"smith%5Ejohn", NAME.encode("utf-16-le"),
        base64.b64encode(b"SMITH^JOHN"),
        base64.b64encode(b"a SMITH^JOHN here"), base64.b64encode(b"at SMITH^JOHN"),
        b"534d4954485e4a4f484e", hashlib.sha256(b"SMITH^JOHN").digest(),
    ],
)  # fmt: skip
def test_the_search_finds_the_name_however_it_is_written(written: bytes) -> None:
    assert found_in(b"\x00\xff" + written + b"\x00")
