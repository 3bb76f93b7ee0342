"""A checkpoint reads back in bits, or is refused; a full disk costs none that stand."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from confrere_common.checkpoint import (
    FORMAT,
    Checkpoint,
    _sealed,
    _unsealed,
    folder_of,
    load_checkpoint,
    prune,
    save_checkpoint,
    saved_rounds,
)
from confrere_common.errors import CheckpointError

Damage = Callable[[Path], object]


def checkpoint(round: int = 1) -> Checkpoint:
    generator = torch.Generator().manual_seed(round)
    weights = {"w": torch.randn(3, 4, generator=generator), "scale": torch.tensor(2.5)}
    step = {"count": torch.tensor([round]), "none": torch.zeros(0, 4)}
    values = {"records": [{"loss": 0.1 * round, "note": "é"}], "odd": [1e-300, -0.0]}
    return Checkpoint(
        round=round, digest="d" * 64, parts={"weights": weights, "step": step}, values=values
    )


def saved(root: Path, *rounds: int, keep: int = 9) -> list[str]:
    for number in rounds:
        save_checkpoint(root, checkpoint(number), keep=keep)
    return [path.name for path in saved_rounds(root)]


def test_what_is_saved_reads_back_in_bits(tmp_path: Path) -> None:
    given = checkpoint(7)

    save_checkpoint(tmp_path, given, keep=1)
    found = load_checkpoint(folder_of(tmp_path, 7))

    assert (found.round, found.digest, found.values) == (7, given.digest, given.values)
    assert found.parts.keys() == given.parts.keys()
    for part, tensors in given.parts.items():
        assert found.parts[part].keys() == tensors.keys()
        assert all(torch.equal(found.parts[part][name], t) for name, t in tensors.items())
        assert all(found.parts[part][name].dtype == t.dtype for name, t in tensors.items())


def test_checkpoints_of_before_are_read_whose_parts_safetensors_wrote(tmp_path: Path) -> None:
    given = checkpoint(7)
    save_checkpoint(tmp_path, given, keep=1)
    folder = folder_of(tmp_path, 7)
    manifest = _unsealed((folder / "manifest.json").read_bytes(), folder.name)
    for part, tensors in given.parts.items():
        content = save(dict(tensors))
        (folder / f"{part}.safetensors").write_bytes(content)
        manifest["sha256"][f"{part}.safetensors"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_bytes(_sealed(manifest))

    found = load_checkpoint(folder)

    for part, tensors in given.parts.items():
        assert all(torch.equal(found.parts[part][name], t) for name, t in tensors.items())


def test_tensors_that_share_memory_or_are_strided_are_saved_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    parts = {"weights": {"whole": whole, "turned": whole.T, "row": whole[1]}, "empty": {}}
    given = Checkpoint(round=1, digest="d", parts=parts, values={})

    save_checkpoint(tmp_path, given, keep=1)
    found = load_checkpoint(folder_of(tmp_path, 1)).parts

    assert torch.equal(found["weights"]["turned"], whole.T)
    assert torch.equal(found["weights"]["row"], whole[1])
    assert found["empty"] == {}


def test_the_newest_come_first_and_only_so_many_are_kept(tmp_path: Path) -> None:
    names = saved(tmp_path, 1, 2, 3, 4, keep=2)

    assert names == ["round-0004", "round-0003"]


def test_rounds_beyond_four_digits_are_in_order(tmp_path: Path) -> None:
    names = saved(tmp_path, 9_999, 10_000)

    assert names == ["round-10000", "round-9999"]


def test_a_round_done_again_replaces_itself(tmp_path: Path) -> None:
    saved(tmp_path, 1, 1)

    assert load_checkpoint(folder_of(tmp_path, 1)).round == 1


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["weights.safetensors", "step.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", [cut_short, emptied, altered, Path.unlink])
def test_a_damaged_file_is_found_out(tmp_path: Path, name: str, damage: Damage) -> None:
    saved(tmp_path, 1)
    folder = folder_of(tmp_path, 1)

    damage(folder / name)

    with pytest.raises(CheckpointError, match="round-0001"):
        load_checkpoint(folder)


def test_no_byte_of_a_manifest_can_be_changed_unseen(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    manifest = folder_of(tmp_path, 1) / "manifest.json"
    whole = manifest.read_bytes()

    for place in range(0, len(whole), 7):
        if not whole[place : place + 1].isspace():
            manifest.write_bytes(whole[:place] + bytes([whole[place] ^ 3]) + whole[place + 1 :])
            with pytest.raises(CheckpointError):
                load_checkpoint(manifest.parent)


@pytest.mark.parametrize("content", ["[]", "null", "3", "{}", '{"format": 2, "sha256": []}'])
def test_a_manifest_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    saved(tmp_path, 1)
    (folder_of(tmp_path, 1) / "manifest.json").write_text(content)

    with pytest.raises(CheckpointError, match="round-0001"):
        load_checkpoint(folder_of(tmp_path, 1))


def test_another_format_is_named(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    manifest = folder_of(tmp_path, 1) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "format": 99}))

    with pytest.raises(CheckpointError, match=f"has format 99, not {FORMAT}"):
        load_checkpoint(manifest.parent)


def test_what_a_crash_left_half_written_is_not_read_and_is_dropped(tmp_path: Path) -> None:
    half = tmp_path / ".round-0002-x1y2"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")

    names = saved(tmp_path, 1)

    assert names == ["round-0001"]
    assert not half.exists()


def test_a_copy_that_someone_made_is_neither_read_nor_dropped(tmp_path: Path) -> None:
    copy = tmp_path / "round-0001.bak"
    copy.mkdir()
    saved(tmp_path, 1, 2)

    prune(tmp_path, keep=1)

    assert [path.name for path in saved_rounds(tmp_path)] == ["round-0002"]
    assert copy.exists()


def test_nothing_is_saved_where_there_is_nothing(tmp_path: Path) -> None:
    assert saved_rounds(tmp_path / "none") == []


ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from confrere_common.checkpoint import Checkpoint, save_checkpoint
from confrere_common.errors import CheckpointError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails with an OSError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
big = {"w": torch.zeros(100_000)}
given = Checkpoint(round=2, digest="d" * 64, parts={"weights": big}, values={})
try:
    save_checkpoint(Path(sys.argv[1]), given, keep=1)
except CheckpointError as fault:
    print(fault)
"""


def test_a_disk_that_refuses_costs_no_earlier_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 1)

    ran = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path)], capture_output=True, text=True
    )

    assert "round 2 could not be saved (0.4 MiB): File too large." in ran.stdout, ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["round-0001"]
    assert load_checkpoint(folder_of(tmp_path, 1)).round == 1


def test_a_folder_that_cannot_be_made_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(CheckpointError, match="round 1 could not be saved"):
        save_checkpoint(tmp_path / "file", checkpoint(), keep=1)
