"""What the machine itself needs for a round's bytes: copies in memory, and bare TLS on loopback."""

import multiprocessing
import socket
import ssl
import threading
import time
from pathlib import Path

import numpy as np
from federation_flower import self_signed

PIECE = 1 << 20


def copy_seconds(size: int) -> float:
    """Return the seconds of one copy of so many bytes into memory that is there already."""
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return best


def tls_seconds(size: int, clients: int, folder: Path) -> float:
    """Return the seconds in which *size* bytes go to each client and come back from each.

    TLS 1.3; a server with a thread and a client process for each connection; pieces of 1 MiB are
    sent from memory and dropped on arrival: no HTTP, no hashes, no files.
    """
    certificate, key = self_signed(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    spawn = multiprocessing.get_context("spawn")
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        ready = [
            spawn.Process(target=_client, args=(port, size, certificate)) for _ in range(clients)
        ]
        for process in ready:
            process.start()
        lines = [context.wrap_socket(door.accept()[0], server_side=True) for _ in ready]
        start = time.perf_counter()
        threads = [threading.Thread(target=_serve, args=(line, size)) for line in lines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        for process in ready:
            process.join()
    return seconds


def _serve(line: ssl.SSLSocket, size: int) -> None:
    _send(line, size)
    _receive(line, size)
    line.close()


def _client(port: int, size: int, certificate: str) -> None:
    context = ssl.create_default_context(cafile=certificate)
    with socket.create_connection(("127.0.0.1", port)) as bare:
        line = context.wrap_socket(bare, server_hostname="localhost")
        _receive(line, size)
        _send(line, size)
        line.close()


def _send(line: ssl.SSLSocket, size: int) -> None:
    piece = memoryview(bytes(PIECE))
    for start in range(0, size, PIECE):
        line.sendall(piece[: min(PIECE, size - start)])


def _receive(line: ssl.SSLSocket, size: int) -> None:
    buffer = bytearray(PIECE)
    left = size
    while left:
        left -= line.recv_into(buffer, min(left, PIECE))
