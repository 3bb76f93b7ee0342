"""Does joining pay: each site's paired difference between the federated model and its own.

Shapes: S seeds, N test images, K classes.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from confrere_client.evaluation.fairness import Both, joining
from confrere_client.evaluation.paired import Weighed
from confrere_client.measure.probe import MEASURES
from confrere_deploy.report import schema
from confrere_deploy.study.measure import LEAST_PATIENTS, Exam, Scores, figure_told, stacked

Rows = NDArray[np.int64]


def of_answers(
    both: Both, patients_N: NDArray[np.int64], sites_N: NDArray[np.str_]
) -> schema.Joining | None:
    """Return whether joining paid for the sites of test images; None where no site can be told."""
    found = joining(both, patients_N, sites_N, smallest=LEAST_PATIENTS)
    if not found.gains:
        return None
    return schema.Joining(
        gains={site: figure_told(gain) for site, gain in found.gains.items()},
        losing=found.losing,
        surely_losing=found.surely_losing,
        surely_gaining=found.surely_gaining,
    )


def of_encoders(
    exam: Exam, federated: Sequence[Scores], local: Sequence[Scores], own: Sequence[str]
) -> schema.Joining | None:
    """Return whether joining paid by linear AUC; model m of *local* is of the site ``own[m]``."""
    if not exam.labelled:
        return None
    joined_SNK, local_SMNK = stacked(federated)[:, 0], stacked(local)
    models = {site: number for number, site in enumerate(own)}
    truth, auc = exam.truth, MEASURES["auc"]

    def judged(arm_SNK: NDArray[np.float64], rows: Rows) -> list[Weighed]:
        return [partial(auc, scores_NK[rows], truth.labels[rows]) for scores_NK in arm_SNK]

    def both(site: str, rows: Rows) -> tuple[list[Weighed], list[Weighed]]:
        return judged(joined_SNK, rows), judged(local_SMNK[:, models[site]], rows)

    sites_N = np.where(np.isin(exam.sites, list(own)), exam.sites, "")
    return of_answers(both, truth.patients, sites_N)
