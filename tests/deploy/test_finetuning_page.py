"""What docs/finetuning.md shows works as it stands there."""

import re
from pathlib import Path

import pytest
import yaml
from networks import fresh
from tiny_runs import tuning

from confrere_common.loading import parse_run
from confrere_common.task import TASKS
from confrere_deploy.cli import app
from confrere_deploy.families import ALL_FAMILIES

PAGE = (Path(__file__).parents[2] / "docs/finetuning.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_its_run_is_sound_and_every_task_is_told_twice() -> None:
    run = parse_run(yaml.safe_load(blocks("yaml")[0]), ALL_FAMILIES)

    assert run.stage == "finetune"
    assert all(PAGE.count(f"| `{name}` |") == 2 for name in TASKS.names())


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(tmp_path / "release", tuning())
    monkeypatch.chdir(tmp_path)
    told: dict[str, object] = {}

    exec(compile(blocks("python")[0], "finetuning.md", "exec"), told)  # noqa: S102

    assert told["answers"].shape == (4, 3)  # type: ignore[attr-defined]


def test_its_commands_are_there() -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands
             if command.callback is not None}  # fmt: skip

    assert {line.split()[1] for line in blocks("")[0].splitlines()} <= known | {"export", "verify"}
