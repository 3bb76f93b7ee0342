"""From images to a verified release by the README's own commands, as they stand there.

Images are made up, and the trainings are as small as they can be: nothing else is changed.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from asking import table, told
from PIL import Image

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
RESEARCH, HOSPITAL = "Your images, your run", "From a hospital's folder"
SMALL = ("seeds=[0]", "data.image_px=16", "train.batch=8", "federation.rounds=1")
SMALLER = {
    "check": SMALL,
    "simulate": (*SMALL, "train.epochs_per_round=1", "encoder={name: resnet, width: 8}"),
    "finetune": (*SMALL, "finetune.labels=1.0", "train.epochs_per_round=1"),
    "evaluate": (*SMALL, "finetune.labels=1.0", "train.epochs_per_round=1", "data.test_share=0.4"),
}
"""Command -> what is set after all that the README sets."""

FEWER = {"--label-curve": ("--labels", "0.5"), "--leave-one-site-out": ("--smallest", "2")}
"""Option -> what comes with it where there are few patients."""


def section(title: str) -> str:
    """Return the text under a heading of the README that begins so."""
    return README.partition(f"\n## {title}")[2].partition("\n## ")[0]


def blocks(title: str, language: str) -> list[str]:
    """Return the section's blocks of one language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", section(title), flags=re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == language]


def commands(title: str) -> list[list[str]]:
    """Return the words of each command in the section's blocks, without their comments."""
    lines = "".join(blocks(title, "")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def smaller(words: list[str]) -> Iterator[str]:
    """Yield a command's words with what makes it quick."""
    yield from words
    for change in SMALLER.get(words[0], ()):
        yield from ("--set", change)
    for word in words:
        yield from FEWER.get(word, ())


def picture(path: Path, number: int) -> None:
    """Write a picture whose class is its colour."""
    noise = np.random.default_rng(number).integers(0, 120, (24, 20 + number % 5, 3), np.uint8)
    noise[..., number % 2] += 120
    Image.fromarray(noise).save(path)


def write_runs() -> None:
    """Write the section's YAML under the names that stand in it."""
    for block in blocks(RESEARCH, "yaml"):
        Path(block.split(":")[0].removeprefix("# ")).write_text(block)


def carry_out(title: str) -> list[str]:
    """Run a section's commands, one after the other; return what each said."""
    said = []
    for program, *words in commands(title):
        assert program == "confrere"
        out, code = told(*smaller([word.replace("/data/", "data/") for word in words]))
        assert code == 0, f"{words}: {out}"
        said.append(out)
    return said


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONFRERE_CACHE", str(tmp_path / "cache"))
    write_runs()
    return tmp_path


def test_the_runs_are_called_as_the_commands_call_them(here: Path) -> None:
    named = {word for title in (RESEARCH, HOSPITAL) for words in commands(title) for word in words
             if word.endswith(".yaml")}  # fmt: skip

    assert named == {path.name for path in here.glob("*.yaml")} == {"skin.yaml", "task.yaml"}


def test_a_researcher_goes_from_images_to_a_verified_release(here: Path) -> None:
    rows = ["path,patient,site,label"]
    for number in range(72):
        picture(here / f"{number}.png", number)
        label = "mole" if number % 2 else "nevus"
        rows.append(f"{number}.png,p{number},{'abc'[number // 2 % 3]},{label}")
    (here / "skin.csv").write_text("\n".join(rows))

    said = carry_out(RESEARCH)

    assert [words[1] for words in commands(RESEARCH)] == [
        "check", "simulate", "finetune", "evaluate", "export", "verify"
    ]  # fmt: skip
    assert "sound: release 'skin-task'" in said[-1]
    assert {"encoder.onnx", "task.safetensors"} <= {path.name for path in Path("release").iterdir()}
    assert Path("measured/report.html").is_file()


def test_a_hospital_goes_from_a_folder_to_a_verified_release_that_answers(here: Path) -> None:
    for folder in ("export", "new"):
        (here / f"data/{folder}").mkdir(parents=True)
    rows = ["path,patient,label"]
    for number in range(48):
        picture(here / f"data/export/{number}.png", number)
        rows.append(f"export/{number}.png,p{number // 2},{'mole' if number % 2 else 'nevus'}")
    (here / "data/labels.csv").write_text("\n".join(rows))
    for number in range(5):
        picture(here / f"data/new/{number}.png", 1000 + number)

    said = carry_out(HOSPITAL)

    assert [words[1] for words in commands(HOSPITAL)] == [
        "client", "simulate", "finetune", "evaluate", "export", "verify", "client", "predict"
    ]  # fmt: skip
    assert "sound: release 'skin-task'" in said[5]
    assert "classification of 5 images" in said[-1]
    assert len(table(Path("answers/answers.csv"))["p(mole)"]) == 5


def test_a_coordinator_s_commands_end_with_a_verified_release() -> None:
    """They are carried out elsewhere: here it is seen that none is missing."""
    words = [words[1:] for words in commands("A real federation")]

    verbs = [" ".join(one[: 2 if one[0] in ("server", "client") else 1]) for one in words]

    assert verbs[:8] == [
        "server init", "server invite", "server start", "server submit", "server status",
        "server fetch", "export", "verify",
    ]  # fmt: skip
    assert {"client join", "client prepare", "client data", "client start"} < {*verbs[8:]}
    assert verbs[-1] == "verify"
