"""A few hundred broken files in each run; tests/benchmarks/fuzz_readers.py tries 24,000."""

import warnings
from pathlib import Path

import fuzz_seeds
import mutation
import numpy as np
import pytest

from confrere_client.ingest.reader import READERS

EACH = 20
SMALL = 60_000


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return mutation.seeds(tmp_path_factory.mktemp("seeds"))


def outcomes(seed: Path, tmp_path: Path, times: int) -> list[str]:
    file = tmp_path / seed.name
    data = seed.read_bytes()
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sums over what is not finite
        for number in range(times):
            rng = np.random.default_rng([number, *seed.name.encode()])
            file.write_bytes(mutation.harmed(data, rng))
            found.append(mutation.tried(file))
    return found


def test_every_seed_can_be_read_when_whole(seeds: list[Path]) -> None:
    assert {mutation.tried(seed) for seed in seeds} == {"read"}


def test_every_reader_has_a_seed_and_nearly_every_harm_is_read_by_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What no reader claims tries none."""
    made = fuzz_seeds.generated(tmp_path_factory.mktemp("made"))
    names = sorted(fuzz_seeds.counted(made))
    folder = tmp_path_factory.mktemp("input")
    found = []
    for number in range(60):
        found.append(
            mutation.tried(fuzz_seeds.broken(fuzz_seeds.chosen(made, number), number, folder))
        )

    assert names == sorted(READERS.names())
    assert [fuzz_seeds.chosen(made, at).reader for at in range(len(names))] == names
    assert found.count("unclaimed") < 12


def test_broken_generated_files_are_read_or_skipped(seeds: list[Path], tmp_path: Path) -> None:
    found = [kind for seed in seeds for kind in outcomes(seed, tmp_path, EACH)]

    assert len(found) == EACH * len(seeds)
    assert len(set(found)) > 4


def test_broken_real_files_are_read_or_skipped(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "ingest_dicom_pydicom").glob("*.dcm"))
    small = [file for file in files if file.stat().st_size < SMALL][::3]

    found = [kind for file in small for kind in outcomes(file, tmp_path, 5)]

    assert len(found) == 5 * len(small)
