"""A report such as a study of three sites leaves, and its pictures."""

from datetime import UTC, datetime

import numpy as np
import pytest

from confrere_deploy.report.pictures import Pictures
from confrere_deploy.report.schema import (
    Arm,
    Cost,
    Data,
    Figure,
    Joining,
    Knn,
    Linear,
    Machine,
    Report,
    Round,
    RoundSite,
    Site,
    SiteArm,
)

SITES = ("anna", "köln", "<script>alert(1)</script> & $x^{")
CLASSES = ("mass", "nodule")


@pytest.fixture(scope="session")
def report() -> Report:
    levels = {"raw": 0.6, "random": 0.65, "local": 0.8, "federated": 0.9, "centralised": 0.91}
    return Report(
        name="quickstart",
        created=datetime(2030, 5, 17, 12, 30, tzinfo=UTC),
        version="0.1.0",
        run={"name": "quickstart", "train": {"lr": 0.001, "clip_norm": None}},
        digest="9f2c" * 16,
        seeds=(0, 1),
        sites=tuple(
            Site(site=name, images=90 - at, patients=30 - at) for at, name in enumerate(SITES)
        ),
        arms={name: an_arm(level) for name, level in levels.items()},  # type: ignore[misc]
        differences={"federated-local": Figure(mean=0.1, low=0.05, high=0.15, n=2)},
        joining=Joining(
            gains={name: Figure(mean=0.1, low=-0.02, high=0.15, n=2) for name in SITES}
        ),
        rounds=tuple(a_round(number, seed) for seed in (0, 1) for number in (1, 2, 3)),
        cost=Cost(
            wall_s=161.0,
            cpu_s=300.0,
            peak_rss_mib=512.0,
            bytes_up=44_000_000,
            bytes_down=44_000_000,
            images_per_s=500.0,
        ),
        warnings=("Site <b>anna</b> was slow.",),
        data=Data(
            images=267,
            patients=87,
            classes=CLASSES,
            channels=1,
            size=(64, 64),
            modality="cxr",
            test_images=60,
            test_patients=20,
        ),
        machine=Machine(cpu="Example 3 GHz", cores=2, torch="2.13.0"),
        command="confrere simulate configs/quickstart.yaml",
    )


def an_arm(level: float) -> Arm:
    figure = Figure(mean=level, low=level - 0.02, high=level + 0.02, n=2)
    return Arm(
        linear=Linear(auc=figure, accuracy=figure, balanced_accuracy=figure),
        knn=Knn(accuracy=figure, accuracy_11=figure),
        rankme=Figure(mean=20 * level, low=20 * level, high=20 * level, n=2),
        sites={name: SiteArm(linear=Linear(auc=figure)) for name in SITES},
    )


def a_round(number: int, seed: int) -> Round:
    broken = number == 2 and seed == 1
    sites = tuple(
        RoundSite(
            site=name,
            loss=float("nan") if broken and at == 1 else 2.0 / number + at,
            images=90 - at,
            seconds=1.5,
            metrics={"rankme": 5.0 + number, "feature_std": 0.2, "uniformity": -2.0},
            alarms=("rankme",) if at == 0 and number == 1 else None,
            refused="the loss was not finite" if broken and at == 1 else None,
        )
        for at, name in enumerate(SITES)
    )
    return Round(
        round=number,
        seed=seed,
        loss=2.0 / number,
        sites=sites,
        bytes_up=7_000_000,
        bytes_down=7_000_000,
        seconds=5.0,
    )


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    random = np.random.default_rng(0)
    return Pictures(
        embedding_N2=random.normal(size=(2000, 2)),
        classes=random.integers(-1, 2, 2000),
        class_names=CLASSES,
        sites=np.array(SITES)[random.integers(0, 3, 2000)],
        projection="PCA",
        samples=random.integers(0, 256, (5, 5, 96, 96, 3), dtype=np.uint8),
    )
