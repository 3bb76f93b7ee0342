"""Every run in configs/ is sound as it lies there."""

from pathlib import Path

import pytest

from confrere_common.loading import read_run
from confrere_common.model import must_suit
from confrere_deploy.families import ALL_FAMILIES

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = sorted(CONFIGS.rglob("*.yaml"))


def test_there_are_runs_to_start_from() -> None:
    assert CONFIGS / "quickstart.yaml" in RUNS
    assert not list(CONFIGS.rglob("*.yml"))


@pytest.mark.parametrize("path", RUNS, ids=[str(path.relative_to(CONFIGS)) for path in RUNS])
def test_a_run_is_sound(path: Path) -> None:
    run = read_run(path, families=ALL_FAMILIES)

    must_suit(run.method, run.encoder)
    assert run.name
