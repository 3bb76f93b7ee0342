"""A site's own state comes back as it was put away, and never that of another run or round."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from confrere_client.state import Keepsake
from confrere_common.errors import CheckpointError


def keepsake(folder: Path, digest: str = "a" * 64, keep: int = 3) -> Keepsake:
    return Keepsake(folder=folder, digest=digest, keep=keep)


def state(value: float) -> dict[str, torch.Tensor]:
    return {"optimizer/w.exp_avg": torch.full((2,), value), "local/teacher.w": torch.tensor(value)}


def value(found: object) -> float:
    assert isinstance(found, dict)
    return float(found["local/teacher.w"]) if found else -1.0


def test_a_site_that_takes_part_for_the_first_time_has_no_state(tmp_path: Path) -> None:
    assert keepsake(tmp_path / "none").load(before=1) == {}


def test_the_newest_earlier_state_is_taken_up(tmp_path: Path) -> None:
    kept = keepsake(tmp_path)
    for number in (1, 2):
        kept.save(number, state(number))

    assert value(kept.load(before=3)) == 2.0
    assert value(kept.load(before=9)) == 2.0  # it was not asked in between


def test_a_round_done_again_starts_from_what_it_started_from(tmp_path: Path) -> None:
    kept = keepsake(tmp_path)
    for number in (1, 2):
        kept.save(number, state(number))

    assert value(kept.load(before=2)) == 1.0
    assert kept.load(before=1) == {}


def test_only_so_many_states_are_kept(tmp_path: Path) -> None:
    kept = keepsake(tmp_path, keep=2)
    for number in range(1, 6):
        kept.save(number, state(number))

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "round-0004.state",
        "round-0005.state",
    ]


def test_nothing_is_written_when_there_is_nothing_to_keep(tmp_path: Path) -> None:
    keepsake(tmp_path).save(1, {})

    assert list(tmp_path.iterdir()) == []


def test_the_state_of_another_run_is_not_used(tmp_path: Path) -> None:
    keepsake(tmp_path).save(1, state(1))

    assert keepsake(tmp_path, digest="b" * 64).load(before=2) == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:0],
        lambda content: content[:9],
        lambda content: content[:-1],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:],
    ],
    ids=["emptied", "cut", "shortened", "altered", "altered in its header"],
)
def test_a_damaged_state_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[bytes], bytes]
) -> None:
    kept = keepsake(tmp_path)
    for number in (1, 2):
        kept.save(number, state(number))
    newest = tmp_path / "round-0002.state"
    newest.write_bytes(change(newest.read_bytes()))

    with caplog.at_level(logging.WARNING):
        found = kept.load(before=3)

    assert value(found) == 1.0
    assert "a site's own state was set aside: round-0002" in caplog.text


def test_what_someone_laid_beside_the_states_is_passed_over(tmp_path: Path) -> None:
    kept = keepsake(tmp_path)
    kept.save(1, state(1))
    (tmp_path / "round-copy").mkdir()
    (tmp_path / "round-0001.bak").touch()
    (tmp_path / "round-0001.state.bak").touch()
    (tmp_path / "round-copy.state").touch()

    assert value(kept.load(before=2)) == 1.0


def test_a_state_comes_back_in_the_same_bits_whatever_its_types(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    given = {
        "optimizer/w.exp_avg": torch.randn(3, 1, 5, generator=generator),
        "optimizer/w.step": torch.tensor(7.0),
        "local/counter": torch.tensor([3, 2**40]),
        "local/half": torch.randn(4, generator=generator).bfloat16(),
        "local/turned": torch.randn(2, 3, generator=generator).T,
        "local/none": torch.zeros(0, 4),
        "local/double": torch.randn(2, generator=generator, dtype=torch.float64),
    }
    keepsake(tmp_path).save(1, given)

    found = keepsake(tmp_path).load(before=2)

    assert list(found) == list(given)
    assert all(torch.equal(found[name], given[name]) for name in given)
    assert all(found[name].dtype == given[name].dtype for name in given)


def test_a_history_that_is_done_again_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    kept = keepsake(tmp_path)
    for number in (1, 2, 3):
        kept.save(number, state(number))

    kept.save(2, state(20))

    assert value(kept.load(before=9)) == 20.0


def test_a_state_half_written_when_the_process_died_is_passed_over(tmp_path: Path) -> None:
    kept = keepsake(tmp_path)
    kept.save(1, state(1))
    (tmp_path / ".round-part").write_bytes(b"half")

    assert value(kept.load(before=9)) == 1.0
    kept.save(2, state(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "round-0001.state",
        "round-0002.state",
    ]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux names what is open")
@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_state_is_on_the_disk_before_the_round_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(str(Path(f"/proc/self/fd/{file}").readlink()))
    )
    home = tmp_path / "site"

    replace(keepsake(home), durable=durable).save(1, state(1))

    due = [str(home / ".round-part"), str(home), str(tmp_path)]  # the file before it has its name
    assert synced == (due if durable else [])
    assert value(keepsake(home).load(before=2)) == 1.0


def test_a_hospital_s_states_are_durable_unless_said_otherwise(tmp_path: Path) -> None:
    assert keepsake(tmp_path).durable


def test_a_disk_that_refuses_is_an_error_that_advises(tmp_path: Path) -> None:
    (tmp_path / "site").touch()  # a file where the folder should be

    with pytest.raises(CheckpointError, match=r"round 3 could not be saved.*free some space"):
        keepsake(tmp_path / "site").save(3, state(3))
