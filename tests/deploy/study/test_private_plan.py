"""A coordinator sees beforehand what privacy costs each site, and whether training can work."""

from dataclasses import replace
from pathlib import Path

import pytest
from private_steps import private_run

from confrere_client.data.images import open_images
from confrere_client.privacy.budget import Ledger
from confrere_common.errors import ConfigError
from confrere_common.privacy.ledger import Spend
from confrere_common.privacy.terms import terms
from confrere_deploy.check import checked
from confrere_deploy.engine import Job
from confrere_deploy.engines.inline import inline, site_folder
from confrere_deploy.simulate import settled
from confrere_deploy.split import spread
from confrere_deploy.study import private_plan
from confrere_deploy.study.holdout import holdout

PRIVATE = ("privacy={epsilon: 8, patients_per_step: 8}", "method=byol")


def test_each_site_is_told_noise_rate_steps_and_epsilon_after_each_round() -> None:
    run = private_run(noise_multiplier=1.5, patients_per_step=10)
    due = terms(run, 40)

    told = dict(private_plan.rows(run, {"north": 40}, parameters=100))

    text = told["privacy, north"]
    assert "40 patients, sampling rate 0.25, noise multiplier 1.5, 2 steps a round" in text
    assert f"epsilon after each round {due.spent(1):.2f}, {due.spent(2):.2f}" in text
    assert "noise over signal 1.5" in text
    assert "warning" not in told


def test_a_warning_tells_when_training_cannot_work() -> None:
    told = dict(private_plan.rows(private_run(), {"north": 40}, parameters=10**7))

    assert "10.00 M parameters 949 times; above 10 training has not" in told["warning"]


def test_a_site_too_large_for_delta_is_told_and_the_others_planned() -> None:
    run = private_run(delta=1e-3)

    told = dict(private_plan.rows(run, {"small": 50, "large": 5000}, parameters=10))

    assert told["privacy, large"].startswith(
        "it cannot take part: delta 0.001 is not under 1 / 5000"
    )
    assert "50 patients" in told["privacy, small"]


def test_many_sites_and_rounds_are_summed_up() -> None:
    run = private_run()
    many = replace(run, federation=replace(run.federation, rounds=50))

    told = list(private_plan.rows(many, {f"site-{n}": 40 for n in range(20)}, parameters=10))

    assert len(told) == 1 + private_plan.SHOWN + 1
    assert told[-1][1] == "and 8 more sites"
    assert "(1)" in told[1][1]
    assert "(50)" in told[1][1]


def test_without_privacy_nothing_is_said() -> None:
    assert list(private_plan.rows(replace(private_run(), privacy=None), {"north": 9}, 10)) == []


def test_a_method_that_couples_images_is_told_before_anything_is_done(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="method 'simclr' compares images"):
        checked(tiny, [PRIVATE[0], "method=simclr"])


def test_a_private_training_spends_what_its_plan_said(tiny: Path, tmp_path: Path) -> None:
    run = checked(tiny, PRIVATE)
    images = open_images(
        run.data.source, folder=tiny.parent, image_px=run.data.image_px, cache_dir=tmp_path
    )
    run = settled(run, images)
    held = holdout(images.catalog, run.data.test_share, run.data.val_share, run.data.seed)
    sites = spread(run.data, images.catalog, held.train)
    job = Job(
        run=run,
        seed=0,
        images=images,
        sites=sites,
        folder=tmp_path,
        observe=lambda _: None,
        watch=lambda *_: None,
    )

    state = inline(job)

    assert [record.loss for record in state.records] == [None] * 3
    assert not any(site.refused for record in state.records for site in record.sites)
    patients = private_plan.listed_patients(run, tiny.parent)
    assert patients == private_plan.patients_at(images.catalog, sites)
    for site, count in patients.items():
        due = terms(run, count)
        ledger = Ledger(path=site_folder(tmp_path, site) / "ledger.sqlite")
        spends = [row.entry for row in ledger.rows() if isinstance(row.entry, Spend)]
        assert [one.round for one in spends] == [1, 2, 3]
        assert {one.event for one in spends} == {due.event}
        assert ledger.spent(site, 1e-5) == due.spent(3) <= 8
