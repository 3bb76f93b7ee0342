"""Images are decoded once, cached, found again, and handed out in batches and crops."""

import json
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from confrere_client.data import cache
from confrere_client.data.images import Images, images_of
from confrere_client.source import Record, Source, UnreadableImage
from confrere_common.errors import DataError
from confrere_common.section import section

Array = NDArray[Any]


class Shelf(Source):
    """Images in memory, and a count of how often they were decoded."""

    @section
    class Config:
        """Nothing to set."""

    def __init__(self, images: Sequence[Array | str]) -> None:
        super().__init__(self.Config(), Path())
        self.images = images
        self.decoded = 0
        self._lock = threading.Lock()

    def records(self) -> list[Record]:
        return [
            Record(name=f"n{index}", decode=partial(self._decode, image), patient=f"p{index}")
            for index, image in enumerate(self.images)
        ]

    def fingerprint(self) -> Iterator[bytes]:
        for image in self.images:
            yield image.encode() if isinstance(image, str) else image.tobytes()

    def _decode(self, image: Array | str) -> Array:
        with self._lock:
            self.decoded += 1
        if isinstance(image, str):
            raise UnreadableImage(image)
        return image


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def opened(source: Source, cache_dir: Path, **knobs: Any) -> Images:
    return images_of(source, image_px=8, cache_dir=cache_dir, **knobs)


def only_home(cache_dir: Path) -> Path:
    (home,) = cache_dir.iterdir()
    return home


def test_keeps_pixels_in_order(tmp_path: Path) -> None:
    shelf = Shelf([noise(1, 8, 8, seed=seed) for seed in range(40)])

    images = opened(shelf, tmp_path)

    assert np.array_equal(images.pixels, np.stack(shelf.images))
    assert isinstance(images.pixels, np.memmap)
    assert (len(images), images.channels, images.size, images.dims) == (40, 1, 8, 2)


def test_decodes_each_image_once_and_never_again(tmp_path: Path) -> None:
    shelf = Shelf([noise(1, 9, 8), noise(3, 8, 8), "torn", noise(1, 8, 8, dtype=np.uint16)])

    first = opened(shelf, tmp_path)
    second = opened(shelf, tmp_path)

    assert shelf.decoded == 4
    assert first.digest == second.digest
    assert first.skipped == second.skipped == (("n2", "torn"),)
    assert first.catalog.names.tolist() == second.catalog.names.tolist() == ["n0", "n1", "n3"]
    assert np.array_equal(first.pixels, second.pixels)


@pytest.mark.parametrize(
    ("images", "channels", "shape", "dtype"),
    [
        ([noise(1, 8, 8), noise(3, 8, 8)], None, (2, 3, 8, 8), np.uint8),
        ([noise(3, 8, 8), noise(1, 8, 8)], 1, (2, 1, 8, 8), np.uint8),
        ([noise(1, 8, 8), noise(1, 8, 8)], 3, (2, 3, 8, 8), np.uint8),
        ([noise(1, 8, 8), noise(1, 8, 8, dtype=np.uint16)], None, (2, 1, 8, 8), np.uint16),
        ([noise(3, 8, 8), noise(1, 8, 8, dtype=np.uint16)], None, (2, 3, 8, 8), np.uint16),
        ([noise(1, 9, 8, 8), noise(1, 8, 8, 8)], None, (2, 1, 8, 8, 8), np.uint8),
    ],
)
def test_makes_all_images_alike(
    tmp_path: Path,
    images: list[Array],
    channels: int | None,
    shape: tuple[int, ...],
    dtype: Any,
) -> None:
    found = opened(Shelf(images), tmp_path, channels=channels)

    assert (found.pixels.shape, found.pixels.dtype) == (shape, dtype)


def test_8_bits_among_16_keep_their_share_of_the_range(tmp_path: Path) -> None:
    eight, sixteen = noise(3, 8, 8), noise(1, 8, 8, dtype=np.uint16)

    found = opened(Shelf([eight, sixteen]), tmp_path)

    assert np.array_equal(found.pixels[0], eight.astype(np.uint16) * 257)
    assert np.array_equal(found.pixels[1], np.repeat(sixteen, 3, axis=0))


def test_skips_what_cannot_be_made_alike(tmp_path: Path) -> None:
    found = opened(
        Shelf([noise(1, 8, 8), noise(1, 8, 8, 8), noise(4, 8, 8), noise(3, 8, 8)]), tmp_path
    )

    assert found.catalog.names.tolist() == ["n0", "n2"]
    assert [name for name, _ in found.skipped] == ["n1", "n3"]
    assert "3-D among 2-D" in found.skipped[0][1]


def test_says_why_none_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 3 images can be read: 2 x torn; 1 x wet"):
        opened(Shelf(["torn", "wet", "torn"]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_tells_its_progress(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []

    opened(
        Shelf([noise(1, 8, 8), "torn"]),
        tmp_path,
        progress=lambda done, of: heard.append((done, of)),
    )

    assert heard == [(1, 2), (2, 2)]


def test_logs_counts_and_reasons_but_no_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(Shelf([noise(1, 8, 8), "torn"]), tmp_path)

    assert "skipped 1 of 2 images: 1 x torn" in caplog.text
    assert "n1" not in caplog.text


def test_other_sizes_channels_and_images_have_other_caches(tmp_path: Path) -> None:
    shelf = Shelf([noise(1, 8, 8)])

    digests = {
        opened(shelf, tmp_path).digest,
        opened(shelf, tmp_path, channels=3).digest,
        images_of(shelf, image_px=4, cache_dir=tmp_path).digest,
        opened(Shelf([noise(1, 8, 8, seed=1)]), tmp_path).digest,
    }

    assert len(digests) == len(list(tmp_path.iterdir())) == 4


def test_only_its_owner_may_enter_a_cache(tmp_path: Path) -> None:
    opened(Shelf([noise(1, 8, 8)]), tmp_path / "made")

    assert stat.S_IMODE(only_home(tmp_path / "made").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700


def test_keeps_neither_names_nor_patients_on_disk(tmp_path: Path) -> None:
    opened(Shelf([noise(1, 8, 8), "torn"]), tmp_path)

    manifest = (only_home(tmp_path) / "manifest.json").read_text()

    assert "n0" not in manifest
    assert "p1" not in manifest


def _of_another_version(home: Path) -> None:
    path = home / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 0}))


def _with_an_altered_manifest(home: Path) -> None:
    path = home / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": [1, 0]}))


def _truncated(home: Path) -> None:
    os.truncate(home / "pixels.npy", 4096 + 100)


def _grown(home: Path) -> None:
    with (home / "pixels.npy").open("ab") as file:
        file.write(b"more")


def _with_an_altered_header(home: Path) -> None:
    with (home / "pixels.npy").open("r+b") as file:
        file.seek(12)
        file.write(b"x")


def _without_pixels(home: Path) -> None:
    (home / "pixels.npy").unlink()


def _without_sense(home: Path) -> None:
    (home / "manifest.json").write_text("[1, 2")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_of_another_version, "is of version 0, not 1"),
        (_with_an_altered_manifest, "has an altered manifest"),
        (_truncated, "has pixels missing or too many"),
        (_grown, "has pixels missing or too many"),
        (_with_an_altered_header, "has an altered header"),
        (_without_pixels, "is damaged"),
        (_without_sense, "is damaged"),
    ],
)
def test_builds_a_spoilt_cache_anew_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Any, said: str
) -> None:
    shelf = Shelf([noise(1, 8, 8), noise(1, 8, 8, seed=1)])
    opened(shelf, tmp_path)
    spoil(only_home(tmp_path))

    again = opened(shelf, tmp_path)

    assert shelf.decoded == 4
    assert f"the image cache {said}" in caplog.text
    assert np.array_equal(again.pixels, np.stack(shelf.images))
    assert only_home(tmp_path).name == again.digest[:32]


@contextmanager
def largest_file(limit_bytes: int) -> Iterator[None]:
    """Let no file grow over the limit: what a full disk does, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("images", [[noise(1, 8, 8)] * 500, [noise(1, 8, 8), noise(3, 8, 8)] * 60])
def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path: Path, images: list[Array]) -> None:
    with largest_file(20_000), pytest.raises(DataError) as told:
        opened(Shelf(images), tmp_path)

    assert "the disk of the image cache is full" in str(told.value)
    assert "CONFRERE_CACHE" in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DataError, match="the disk of the image cache cannot be written"):
        opened(Shelf([noise(1, 8, 8)]), tmp_path / "file" / "below")


def test_an_interrupted_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(Shelf([noise(1, 8, 8)] * 5), tmp_path, progress=interrupt)

    assert not list(tmp_path.iterdir())


def test_sweeps_up_what_a_killed_build_left_but_not_one_at_work(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".building-dead", tmp_path / ".building-alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "pixels.npy").touch()
    long_ago = time.time() - 2 * cache.DEAD_AFTER_S
    for path in (dead, dead / "pixels.npy", alive):
        os.utime(path, (long_ago, long_ago))

    opened(Shelf([noise(1, 8, 8)]), tmp_path)

    assert not dead.exists()
    assert alive.exists()


BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from confrere_client.data.cache import build, stored
from confrere_client.source import Record
folder, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def prepare(record):
    time.sleep(0.01)
    return np.full((1, 8, 8), int(record.name), np.uint8)
records = [Record(name=str(i), decode=lambda: None, patient="p") for i in range(20)]
(folder / me).touch()
while not (folder / other).exists():
    time.sleep(0.005)
seen = []
build(records, prepare, "d" * 64, folder / "cache" / "home", lambda done, of: seen.append(done))
assert stored(folder / "cache" / "home", "d" * 64, 20) is not None
pixels = np.load(folder / "cache" / "home" / "pixels.npy", mmap_mode="r")
print(len(seen), int(pixels.sum()))
"""


def test_two_processes_may_build_one_cache_at_once(tmp_path: Path) -> None:
    commands = [
        [sys.executable, "-W", "error", "-c", BUILDER, str(tmp_path), *names]
        for names in (("one", "two"), ("two", "one"))
    ]

    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=60)[0].split() for process in running]

    assert said == [["20", str(sum(range(20)) * 64)]] * 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["home"]


def test_many_threads_may_replace_a_spoilt_cache_at_once(tmp_path: Path) -> None:
    shelf = Shelf([noise(1, 8, 8, seed=seed) for seed in range(10)])
    opened(shelf, tmp_path)
    _truncated(only_home(tmp_path))
    found: list[Images] = []

    threads = [
        threading.Thread(target=lambda: found.append(opened(shelf, tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [np.array_equal(images.pixels, np.stack(shelf.images)) for images in found] == [True] * 4
    assert only_home(tmp_path).name == found[0].digest[:32]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_batch_is_a_copy_of_its_rows_in_their_order(tmp_path: Path, dtype: Any) -> None:
    shelf = Shelf([noise(3, 8, 8, dtype=dtype, seed=seed) for seed in range(5)])
    images = opened(shelf, tmp_path)

    batch_BCYX = images.batch(np.array([4, 0, 4]))

    assert np.array_equal(batch_BCYX.numpy(), np.stack([shelf.images[row] for row in (4, 0, 4)]))
    assert batch_BCYX.is_contiguous()
    assert batch_BCYX.to(torch.float32).max() > 200
    batch_BCYX.zero_()
    assert images.pixels.max() > 200


def test_a_crop_is_a_copy_of_its_box(tmp_path: Path) -> None:
    shelf = Shelf([noise(1, 8, 8, 8, seed=seed) for seed in range(3)])
    images = opened(shelf, tmp_path)

    crop_CZYX = images.crop(2, (1, 2, 3), (4, 5, 2))

    assert np.array_equal(crop_CZYX.numpy(), shelf.images[2][:, 1:5, 2:7, 3:5])
    crop_CZYX.zero_()
    assert np.array_equal(images.pixels[2], shelf.images[2])


@pytest.mark.parametrize("corner", [(-1, 0, 0), (0, 0, 5)])
def test_a_crop_may_not_leave_the_image(tmp_path: Path, corner: tuple[int, int, int]) -> None:
    images = opened(Shelf([noise(1, 8, 8, 8)]), tmp_path)

    with pytest.raises(IndexError, match="leaves the image"):
        images.crop(0, corner, (4, 4, 4))


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFRERE_CACHE", "/here")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    own = cache.default_cache_dir()
    monkeypatch.delenv("CONFRERE_CACHE")
    shared = cache.default_cache_dir()
    monkeypatch.delenv("XDG_CACHE_HOME")

    assert (own, shared) == (Path("/here"), Path("/there/confrere"))
    assert cache.default_cache_dir() == Path.home() / ".cache" / "confrere"
