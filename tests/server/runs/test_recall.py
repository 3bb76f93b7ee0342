from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from confrere_common.chain import Chain
from confrere_server.runs.recall import last_closed, site_heads


def log_with(tmp_path: Path, *rows: tuple[str, dict[str, str | int]]) -> Path:
    chain = Chain(tmp_path / "audit.jsonl", Ed25519PrivateKey.generate())
    for event, facts in rows:
        chain.append(event, **facts)
    return chain.path


def test_the_last_closed_round_of_a_run_is_found_among_those_of_others(tmp_path: Path) -> None:
    log = log_with(
        tmp_path,
        ("closed", {"run": "a", "round": 1}),
        ("closed", {"run": "a", "round": 2}),
        ("closed", {"run": "b", "round": 9}),
        ("asked", {"run": "a", "round": 3}),
    )

    assert (last_closed(log, "a"), last_closed(log, "b"), last_closed(log, "c")) == (2, 9, 0)


def test_a_sites_last_head_is_the_one_that_counts(tmp_path: Path) -> None:
    log = log_with(
        tmp_path,
        ("site head", {"site": "north", "length": 3, "head": "aa"}),
        ("site head", {"site": "south", "length": 5, "head": "bb"}),
        ("site head", {"site": "north", "length": 4, "head": "cc"}),
    )

    assert site_heads(log) == {"north": (4, "cc"), "south": (5, "bb")}


def test_a_line_that_a_crash_tore_is_passed_over(tmp_path: Path) -> None:
    log = log_with(tmp_path, ("closed", {"run": "a", "round": 1}))

    log.write_bytes(log.read_bytes() + b'{"event": "clo')

    assert last_closed(log, "a") == 1


def test_a_log_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"

    assert last_closed(log, "a") == 0
    assert site_heads(log) == {}
