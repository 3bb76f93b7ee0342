"""The cache is built once, found again, built anew when spoilt, and left whole by a crash."""

import json
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shelf import Array, Shelf, noise, only_home, opened

from confrere_client.data import cache
from confrere_client.data.images import Images, images_of
from confrere_common.errors import DataError


def test_decodes_each_image_once_and_never_again(tmp_path: Path) -> None:
    shelf = Shelf([noise(1, 9, 8), noise(3, 8, 8), "torn", noise(1, 8, 8, dtype=np.uint16)])

    first = opened(shelf, tmp_path)
    second = opened(shelf, tmp_path)

    assert shelf.decoded == 4
    assert first.digest == second.digest
    assert first.skipped == second.skipped == (("n2", "torn"),)
    assert first.catalog.names.tolist() == second.catalog.names.tolist() == ["n0", "n1", "n3"]
    assert np.array_equal(first.pixels, second.pixels)


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


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFRERE_CACHE", "/here")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    own = cache.default_cache_dir()
    monkeypatch.delenv("CONFRERE_CACHE")
    shared = cache.default_cache_dir()
    monkeypatch.delenv("XDG_CACHE_HOME")

    assert (own, shared) == (Path("/here"), Path("/there/confrere"))
    assert cache.default_cache_dir() == Path.home() / ".cache" / "confrere"
