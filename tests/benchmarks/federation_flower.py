"""Plain Flower on loopback for a benchmark: superlink, supernodes, FedAvg; TLS, store in memory."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from federation_ours import wait

from confrere_deploy.federation.provision import free_port

APP = Path(__file__).parent / "plain_flower"
BIN = Path(sys.executable).parent
KINDS = {
    "flower-superlink": "superlink",
    "flwr-serverapp": "serverapp",
    "flower-supernode": "supernode",
    "flwr-clientapp": "clientapp",
    "flower-superexec": "superexec",
}


@dataclass(kw_only=True)
class Plain:
    """Folders and processes of plain Flower."""

    root: Path
    clients: int
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def open(self) -> None:
        certificate, key = self_signed(self.root)
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "lab"\n\n[superlink.lab]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{certificate}"\n'
        )
        self._start(
            "flower-superlink", "--host", "127.0.0.1", "--port", str(self.port),
            "--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-ca-certfile", certificate,
            "--disable-runtime-dependency-installation",
        )  # fmt: skip
        wait(lambda: self._listens(), 60, "flower-superlink")
        for number in range(self.clients):
            self._start(
                "flower-supernode", "--superlink", f"127.0.0.1:{self.port}",
                "--root-certificates", certificate, "--port", str(free_port()),
                "--node-config", f"partition-id={number} num-partitions={self.clients}",
            )  # fmt: skip

    def run(
        self, shapes: Mapping[str, tuple[int, ...]], rounds: int, within_s: float
    ) -> list[float]:
        """Do *rounds*; return when the first began and when each ended, in Unix time."""
        told, out = self.root / "shapes.json", self.root / "out.json"
        told.write_text(json.dumps(shapes))
        out.unlink(missing_ok=True)
        config = f'shapes="{told}" out="{out}" rounds={rounds} clients={self.clients}'
        command = [str(BIN / "flwr"), "run", str(APP), "lab", "--run-config", config]
        subprocess.run(command, check=True, env=self._environment(), capture_output=True)
        wait(out.exists, within_s, f"Flower's rounds; see {self.root}")
        found = json.loads(out.read_text())
        if found["rounds"] != rounds:
            raise SystemExit(f"Flower did {found['rounds']} of {rounds} rounds; see {self.root}")
        ends: list[float] = found["ends"]
        return ends

    def close(self) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _listens(self) -> bool:
        import socket

        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1),
        ):
            return True
        return False

    def _environment(self) -> dict[str, str]:
        off = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **off, "FLWR_HOME": str(self.root / "home"), "PATH": path}

    def _start(self, program: str, *arguments: str) -> None:
        with (self.root / f"{program}-{len(self.processes)}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(BIN / program), *arguments], stdout=log, stderr=log, env=self._environment()
            )
        self.processes.append(process)


def role_of(pid: int, command: str) -> str:  # noqa: ARG001
    """Return which part of Flower a process is."""
    words = command.split()[:3]
    return next((kind for word in words for n, kind in KINDS.items() if word.endswith(n)), "")


def self_signed(folder: Path) -> tuple[str, str]:
    """Write a certificate for this machine that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA384())
    )
    crt, pem = folder / "plain.crt", folder / "plain.key"
    crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(crt), str(pem)


@contextlib.contextmanager
def plain_flower(root: Path, clients: int) -> Iterator[Plain]:
    made = Plain(root=root, clients=clients)
    try:
        made.open()
        yield made
    finally:
        made.close()
