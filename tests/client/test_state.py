"""A site's own state comes back as it was put away, and never that of another run or round."""

import logging
from pathlib import Path

import pytest
import torch

from confrere_client.state import Keepsake


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

    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0004", "round-0005"]


def test_nothing_is_written_when_there_is_nothing_to_keep(tmp_path: Path) -> None:
    keepsake(tmp_path).save(1, {})

    assert list(tmp_path.iterdir()) == []


def test_the_state_of_another_run_is_not_used(tmp_path: Path) -> None:
    keepsake(tmp_path).save(1, state(1))

    assert keepsake(tmp_path, digest="b" * 64).load(before=2) == {}


def test_a_damaged_state_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = keepsake(tmp_path)
    for number in (1, 2):
        kept.save(number, state(number))
    (tmp_path / "round-0002" / "state.safetensors").write_bytes(b"cut")

    with caplog.at_level(logging.WARNING):
        found = kept.load(before=3)

    assert value(found) == 1.0
    assert "a site's own state was set aside: round-0002" in caplog.text


def test_what_someone_laid_beside_the_states_is_passed_over(tmp_path: Path) -> None:
    kept = keepsake(tmp_path)
    kept.save(1, state(1))
    (tmp_path / "round-copy").mkdir()
    (tmp_path / "round-0001.bak").touch()

    assert value(kept.load(before=2)) == 1.0
