"""Retrieval: of the five lung tiles found nearest (LC25000), how many are of the query's class.

Queries are test images, the index holds the labelled training images; near duplicates of a query
are of its own group and so never in the index. *frozen*: cosine of the features as they are.
*tuned*: metric fine-tuning over the four sites.
"""

from collections.abc import Iterator

from downstream_work import Desk, Way
from label_efficiency import pretrained, tuning

MEASURES = ("P@5", "P@1", "mAP")
BASES = ("raw pixels", "untrained", "scratch")
COLUMNS = ("data", "labels", "start", "how")


def ways(_: Desk) -> Iterator[Way]:
    """Yield the floors, then what was pre-trained."""
    yield _way(1.0, "raw", "raw pixels", "frozen", trained=False)
    yield _way(1.0, "probe", "untrained", "frozen", trained=False)
    yield _way(1.0, "probe", "federated simclr", "frozen", trained=True)
    yield _way(0.1, "federated", "scratch", "tuned", trained=False)
    yield _way(0.1, "federated", "federated simclr, tuned", "tuned", trained=True)


def _way(labels: float, tuned: str, name: str, how: str, *, trained: bool) -> Way:
    plain = tuning("histo", labels, lr=1e-3, decay=1.0)
    plain["finetune"] = {**plain["finetune"], "task": {"name": "retrieval"}}
    start = pretrained("histo") if trained else None
    facts = {"data": "histo", "labels": f"{labels:.0%}", "start": name, "how": how}
    return Way(data="histo", plain=plain, tuned=tuned, start=start, facts=facts)
