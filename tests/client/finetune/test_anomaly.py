"""How normal an image looks beside its site's own normal images: order stays, scales become one."""

from dataclasses import replace

import numpy as np
import pytest
from exams import compared_exam, noisy
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tiny_runs import tuning

from confrere_client.evaluation.federated import told
from confrere_client.finetune import anomaly
from confrere_client.finetune.anomaly import beside
from confrere_client.finetune.judge import Exam
from confrere_common.judged import read_evaluation
from confrere_common.model import build_model
from confrere_common.tally import step_of
from confrere_common.task import FineTask
from confrere_server.pooling import pool

SCORES = ("foretold", "unusual", "knn", "mahalanobis")


def asked_by(score: str = "foretold", learned: int = 40) -> tuple[FineTask, Exam]:
    run = tuning("anomaly", knobs={"normal": "a", "score": score, "bottleneck": 8})
    model = build_model(run, seed=0)
    assert isinstance(model, FineTask)
    test = [("abc"[n % 3], 100 + n) for n in range(30)]
    return model.eval(), compared_exam(run, [("a", n // 2) for n in range(learned)], test)


@pytest.mark.parametrize("score", SCORES)
def test_order_within_a_site_is_that_of_the_leading_score(score: str) -> None:
    task, exam = asked_by(score)

    odd_N = np.asarray(anomaly.answers(task, exam)[score], np.float64)
    found = anomaly.answers(task, replace(exam, counted=True))

    assert found.keys() == {"normality_N"}  # nothing else is counted
    normality_N = found["normality_N"]
    assert ((normality_N >= 0) & (normality_N <= 1)).all()
    order_N = np.argsort(odd_N)
    assert (np.diff(normality_N[order_N]) <= 1e-6).all()
    assert len(np.unique(step_of(normality_N))) > 10


@pytest.mark.parametrize("score", SCORES)
def test_normal_images_that_nobody_learned_from_lie_among_the_normal(score: str) -> None:
    """Beside themselves, those learned from were as near as can be: all others seemed odd."""
    task, exam = asked_by(score, learned=12)

    normality_N = anomaly.answers(task, replace(exam, counted=True))["normality_N"]

    assert 0.05 < np.median(normality_N) < 0.95


@pytest.mark.parametrize("learned", [1, 2])
def test_of_a_single_patient_s_normal_images_something_finite_is_said(learned: int) -> None:
    task, exam = asked_by("knn", learned)

    assert np.isfinite(anomaly.answers(task, replace(exam, counted=True))["normality_N"]).all()


def test_the_normal_images_may_lie_in_another_data_set() -> None:
    task, exam = asked_by("knn")
    apart = replace(
        exam, images=noisy([("a", 7), ("b", 8)], seed=1), asked=np.arange(2), taught=exam.images
    )
    whole = np.concatenate([exam.images.pixels, apart.images.pixels])
    known = [("a", n) for n in range(70)] + [("a", 107), ("b", 108)]
    joined = replace(noisy(known), pixels=whole)
    together = replace(exam, images=joined, asked=np.array([70, 71]))

    one, other = (
        anomaly.answers(task, replace(some, counted=True))["normality_N"]
        for some in (apart, together)
    )

    assert one == pytest.approx(other, abs=0.2)  # other halves of other patients
    assert anomaly.answers(task, apart)["knn"] == pytest.approx(
        anomaly.answers(task, together)["knn"]
    )


@given(scale=st.floats(0.01, 100), shift=st.floats(-50, 50), seed=st.integers(0, 99))
def test_a_site_s_scale_does_not_matter(scale: float, shift: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    usual_G, scores_N = generator.normal(0, 1, 50), generator.normal(1, 2, 20)

    plain, moved = (
        beside(scores_N, usual_G),
        beside(scale * scores_N + shift, scale * usual_G + shift),
    )

    assert moved == pytest.approx(plain, abs=1e-6)
    assert (np.argsort(plain) == np.argsort(-scores_N)).all()


def test_where_all_normal_scores_are_one_a_score_is_still_compared() -> None:
    found = beside(np.array([1.0, 0.0, 2.0]), np.ones(9))

    assert found == pytest.approx([0.5, 1, 0])


def test_sites_of_other_scales_pool_to_the_exact_area_within_the_stated_error() -> None:
    run = tuning("anomaly", knobs={"normal": "b"})
    said, every, truth, raw = {}, [], [], []
    for number, (scale, shift) in enumerate([(1.0, 0.0), (40.0, 900.0)]):
        generator = np.random.default_rng(number)
        known = [("abc"[n % 3], n) for n in range(180)]
        exam = compared_exam(run, [], known)
        normal_N = np.arange(180) % 3 == 1
        scores_N = scale * generator.normal(np.where(normal_N, 0, 1.5), 1) + shift
        usual_G = scale * generator.normal(0, 1, 100) + shift
        normality_N = beside(scores_N, usual_G)
        text = told({"normality_N": normality_N}, exam, smallest=10)
        said[f"site-{number}"] = read_evaluation(text, 3, 10)
        every.append(normality_N)
        raw.append(-scores_N)
        truth.append(normal_N)

    found = pool(said, 3)

    exact = roc_auc_score(np.concatenate(truth), np.concatenate(every))
    assert found.keys() == {1}
    assert (found[1].positives, found[1].negatives) == (120, 240)
    assert abs(found[1].auc - exact) <= found[1].error
    assert abs(found[1].auc - exact) < 0.03
    assert roc_auc_score(np.concatenate(truth), np.concatenate(raw)) < exact - 0.1
