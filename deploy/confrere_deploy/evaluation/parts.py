"""What each part of an evaluation trains, and what its cells come to.

Shapes: N images.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from confrere_client.data.images import Images
from confrere_client.evaluation.fairness import suppressed
from confrere_client.evaluation.paired import SWAPS, holm
from confrere_client.finetune.judge import Judge
from confrere_deploy.evaluation import figures, schema
from confrere_deploy.evaluation.cells import Cell, Finished
from confrere_deploy.evaluation.contestants import Contestant
from confrere_deploy.evaluation.wishes import Labels, Wishes
from confrere_deploy.report.schema import Figure
from confrere_deploy.study.finetuning import HERE, Lecture, must_finetune, prepared
from confrere_deploy.study.measure import LEAST_PATIENTS

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A contestant with its images, labels and start settled."""

    contestant: Contestant
    lecture: Lecture

    @property
    def name(self) -> str:
        """Return the arm's name."""
        return self.contestant.name

    @property
    def given(self) -> bool:
        """Say whether it is a given encoder, fine-tuned as the run says."""
        return bool(self.lecture.warm) and self.contestant.whole


def entry(contestant: Contestant, images: Images) -> Entry:
    """Return a contestant ready to train; its start was made absolute, so no folder matters."""
    from pathlib import Path

    return Entry(
        contestant=contestant, lecture=prepared(contestant.run, images, Path(), alone=True)
    )


def on_labels(one: Entry, labels: Labels) -> Lecture:
    """Return the lecture on so many labels; fewer are among more, validation gets as many less."""
    run = one.contestant.run
    if labels == must_finetune(run).labels:
        return one.lecture
    asked = replace(run, finetune=replace(must_finetune(run), labels=labels))
    return entry(replace(one.contestant, run=asked), one.lecture.images).lecture


def least(smallest: int) -> int:
    """Return how many test patients a site needs to be spoken of."""
    return max(LEAST_PATIENTS, smallest)


def unseen_sites(lecture: Lecture, smallest: int) -> list[str]:
    """Return the sites whose leaving out leaves somebody to learn, and that may be spoken of.

    The rule is that of groups: a site of few test patients is not told, nor one that would give it
    away.
    """
    catalog = lecture.images.catalog
    tested, learned = catalog.sites[lecture.test], catalog.sites[lecture.learned]
    patients = {
        str(site): len(np.unique(catalog.patients[lecture.test[tested == site]]))
        for site in np.unique(tested[tested != ""])
    }
    hidden = suppressed(patients, least(smallest))
    return [
        site
        for site in patients
        if site not in hidden and 0 < (learned == site).sum() < len(learned)
    ]


def without_site(lecture: Lecture, site: str) -> Lecture:
    """Return the lecture in which *site* neither teaches nor validates, and alone is tested."""
    return _parted(lecture, site, own=False)


def at_site_alone(lecture: Lecture, site: str) -> Lecture:
    """Return the lecture in which *site* alone teaches, validates and is tested."""
    return _parted(lecture, site, own=True)


def _parted(lecture: Lecture, site: str, *, own: bool) -> Lecture:
    where = lecture.images.catalog.sites
    learned, val = lecture.learned, lecture.val
    test = lecture.test[where[lecture.test] == site]
    return replace(
        lecture,
        sites={HERE: learned[(where[learned] == site) == own]},
        val=val[(where[val] == site) == own],
        test=test,
        test_sites=np.full(len(test), HERE),
    )


Done = Mapping[str, Sequence[Finished]]
"""Cell's part and arm -> its seeds; see ``key``."""


def key(arm: str, part: str) -> str:
    """Return under which key the seeds of a cell stand."""
    return f"{part} | {arm}"


def cells_of(entries: Sequence[Entry], wishes: Wishes) -> Iterator[Cell]:
    """Yield every cell, those first that most depends on; some occur in two parts."""
    for one in entries:
        yield from _seeds(one, one.lecture, "all", keep=one.contestant.whole)
    for labels in wishes.curve:
        for one in entries:
            lecture = on_labels(one, labels)
            if lecture is not one.lecture:
                yield from _seeds(one, lecture, f"labels {labels}")
    for one in entries if wishes.leave_one_site_out else ():
        sites = unseen_sites(one.lecture, wishes.smallest)
        for site in sites if one.contestant.whole else ():
            yield from _seeds(one, without_site(one.lecture, site), f"without {site}")
            yield from _seeds(one, at_site_alone(one.lecture, site), f"only {site}")


def _seeds(one: Entry, lecture: Lecture, part: str, *, keep: bool = False) -> Iterator[Cell]:
    for seed in lecture.run.seeds:
        yield Cell(arm=one.name, lecture=lecture, seed=seed, part=part, keep=keep)


SWAPS_FOR_EACH = 40
"""Swaps for each difference of a list, at least: the smallest p must survive its correction."""


def corrected(found: Sequence[schema.Gap]) -> tuple[schema.Gap, ...]:
    """Return the differences of a list, their p values as they stand when all are looked at."""
    known = {str(n): one.p for n, one in enumerate(found) if one.p is not None}
    all_told = holm(known)
    return tuple(replace(one, p_corrected=all_told.get(str(n))) for n, one in enumerate(found))


def gaps(
    entries: Sequence[Entry],
    judge: Judge,
    seeds: Mapping[str, Sequence[Finished]],
    lists: int = 1,
) -> Iterator[schema.Gap]:
    """Yield each given encoder against each other arm, where both answered the same images.

    They are looked at together with those of so many *lists*; none is corrected for that yet.
    """
    pairs = [
        (ours, theirs)
        for ours in entries
        for theirs in entries
        if ours.given and ours.name != theirs.name and {ours.name, theirs.name} <= seeds.keys()
    ]
    swaps = max(SWAPS, SWAPS_FOR_EACH * len(pairs) * lists)
    for ours, theirs in pairs:
        mine, other = seeds[ours.name], seeds[theirs.name]
        rows = mine[0].asked
        found = figures.gap(ours.lecture, judge, mine, other, rows)
        if found is not None:
            both = list(zip(mine, other, strict=True))
            yield schema.Gap(
                ours=ours.name,
                theirs=theirs.name,
                figure=found,
                p=figures.p_value(ours.lecture, judge, both, rows, swaps),
            )


def curve(
    entries: Sequence[Entry], wishes: Wishes, judge: Judge, done: Done
) -> Iterator[schema.CurvePoint]:
    """Yield what is reached on each amount of labels, fewest patients first."""
    points = []
    for labels in wishes.curve:
        seeds = {one.name: done[key(one.name, _part(one, labels))] for one in entries}
        learned = on_labels(entries[0], labels).learned
        told = {
            one.name: figures.figure(one.lecture, judge, seeds[one.name], one.lecture.test)
            for one in entries
        }
        points.append(
            schema.CurvePoint(
                labels=str(labels),
                images=len(learned),
                patients=len(np.unique(entries[0].lecture.images.catalog.patients[learned])),
                arms={name: figure for name, figure in told.items() if figure is not None},
                gaps=tuple(gaps(entries, judge, seeds, len(wishes.curve))),
            )
        )
    points.sort(key=lambda point: point.patients)
    every = iter(corrected([gap for point in points for gap in point.gaps]))
    for point in points:
        yield replace(point, gaps=tuple(islice(every, len(point.gaps))))


def _part(one: Entry, labels: Labels) -> str:
    same = labels == must_finetune(one.contestant.run).labels
    return "all" if same else f"labels {labels}"


def unseen(
    entries: Sequence[Entry], wishes: Wishes, judge: Judge, done: Done
) -> Iterator[schema.UnseenSite]:
    """Yield what is reached at each site with and without having learned there."""
    whole = [one for one in entries if one.contestant.whole]
    lecture = whole[0].lecture
    where, patients = lecture.images.catalog.sites, lecture.images.catalog.patients
    for site in unseen_sites(lecture, wishes.smallest):
        test = lecture.test[where[lecture.test] == site]
        yield schema.UnseenSite(
            site=site,
            images=int((where[lecture.learned] == site).sum()),
            test_patients=len(np.unique(patients[test])),
            arms={one.name: _at_site(one, judge, done, site, test) for one in whole},
        )


def _at_site(one: Entry, judge: Judge, done: Done, site: str, test: Rows) -> schema.UnseenArm:
    never, ever, own = (
        done[key(one.name, part)] for part in (f"without {site}", "all", f"only {site}")
    )

    def told(seeds: Sequence[Finished]) -> Figure | None:
        return figures.figure(one.lecture, judge, seeds, test)

    return schema.UnseenArm(
        unseen=told(never),
        seen=told(ever),
        own=told(own),
        loss=figures.gap(one.lecture, judge, ever, never, test),
    )
