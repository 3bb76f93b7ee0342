"""What each arm's answers say of the structures that it outlined, as reports hold it."""

from collections.abc import Sequence

from confrere_client.evaluation.paired import Quartiles
from confrere_client.finetune.judge import Answers, Exam
from confrere_client.finetune.segmentation import told_structures
from confrere_deploy.report.outlined import Middle, Outlined


def outlined(seeds: Sequence[Answers], exam: Exam) -> dict[str, Outlined]:
    """Return structure -> its counts and medians; empty for answers without those of masks."""
    return {
        name: Outlined(
            cases=one.cases,
            without=one.truth_empty,
            dice=_middle(one.dice),
            hd95=_middle(one.hd95),
            missed=one.missed_S,
            invented=one.invented_S,
        )
        for name, one in told_structures(seeds, exam).items()
    }


def _middle(of: Quartiles) -> Middle:
    return Middle(median=of.median, lower=of.lower, upper=of.upper)
