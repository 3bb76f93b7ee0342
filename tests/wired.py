"""A node's line straight into a SuperLink in the same process: Flower on both sides, no socket."""

import asyncio
import ssl
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from confrere_client.daemon.fleet import Line
from confrere_common.code import bundle
from confrere_common.pki.keys import new_key, public_pem
from confrere_server.transport.superlink import SuperLink

MIB = 2**20


class Wire:
    """A SuperLink with an open run, and nodes to speak with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.link = SuperLink(folder)
        self.run = self.link.begin(bundle())
        self._keys: list[ec.EllipticCurvePrivateKey] = []

    def node(self, *, connect: bool = True) -> tuple[int, Line]:
        key = new_key()
        known = self.link.register(public_pem(key.public_key()), f"site-{len(self._keys)}")
        self._keys.append(key)
        line = line_to(self.link, key)
        if connect:
            assert line.connect() == known
        return known, line

    def ask(self, *nodes: int, content: RecordDict | None = None) -> dict[int, str]:
        return self.link.push(self.run, nodes, content or said("hello"), kind="train", group="g")

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


class InProcess(httpx.BaseTransport):
    """Hands requests to an ASGI app, and adds the header that uvicorn adds to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return asyncio.run(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        through = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=through) as client:
            found = await client.request(
                request.method, request.url, headers=request.headers, content=request.read()
            )
        return httpx.Response(
            found.status_code,
            headers={**found.headers, "date": formatdate(usegmt=True)},
            content=found.content,
        )


def line_to(link: SuperLink, key: ec.EllipticCurvePrivateKey) -> Line:
    line = Line("server", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), key)
    line._client._client.close()
    line._client._client = httpx.Client(transport=InProcess(link.app))
    return line


def said(text: str) -> RecordDict:
    return RecordDict({"text": ConfigRecord({"said": text})})


def model(mib: int, seed: int = 0) -> RecordDict:
    """Return so many arrays of one MiB."""
    draw = np.random.default_rng(seed)
    arrays = {
        f"w{number}": Array(draw.standard_normal(MIB // 4, dtype=np.float32))
        for number in range(mib)
    }
    return RecordDict({"weights": ArrayRecord(arrays)})
