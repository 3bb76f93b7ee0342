"""What the run shows, in sentences a doctor reads: no more than the intervals allow."""

from collections.abc import Mapping

from confrere_deploy.report import joined
from confrere_deploy.report.figures import MEASURES, auc, knn_accuracy, picked, site_pairs
from confrere_deploy.report.pictures import Pictures
from confrere_deploy.report.schema import FLOORS, ArmName, Figure, Report
from confrere_deploy.report.words import (
    ARM_PHRASES,
    amount,
    counted,
    duration,
    images_of,
    listed,
    number,
    spoken,
)

REACHED: Mapping[ArmName, str] = {
    "local": "when each site trains alone",
    "centralised": "with all images in one place",
    "random": "with an untrained encoder",
    "raw": "with raw pixels",
}


def summary(report: Report) -> str:
    """Tell in one paragraph what was run and what came of it."""
    return " ".join([_what_was_run(report), _what_came_of_it(report)])


def verdicts(report: Report) -> list[str]:
    """Compare the federation with each other arm, and say where this run cannot tell them apart."""
    _, figures = leading(report)
    if "federated" not in figures:
        return []
    others = [name for name in reversed(figures) if name != "federated"]
    said = [_verdict(report, name, figures) for name in others]
    said += _at_unseen_sites(report)
    pairs = site_pairs(report).values()
    if report.joining is not None:
        said += joined.verdict(report.joining)
    elif pairs:
        ahead = sum(federated.mean > alone.mean for alone, federated in pairs)
        said.append(
            f"On its own test patients, {ahead} of {counted(len(pairs), 'site')} scored higher "
            "with the federated encoder than with its own (single figures, not a test)."
        )
    return said


def _at_unseen_sites(report: Report) -> list[str]:
    """Say what each arm reached at the sites of which nobody learned."""
    arms = {name: report.arms[name].unseen or {} for name in ARM_PHRASES if name in report.arms}
    said = []
    for site in arms.get("federated", {}):
        found = {name: auc(its[site]) or knn_accuracy(its[site]) for name, its in arms.items()}
        told = [
            f"{spoken(figure, 2)} by {ARM_PHRASES[name]}"
            for name, figure in found.items()
            if figure is not None
        ]
        title = "AUC" if auc(arms["federated"][site]) else "accuracy of 20 nearest neighbours"
        said.append(f"At {site}, of which nobody learned, the {title} is {listed(told)}.")
    return said


def cautions(report: Report) -> list[str]:
    """Return what weakens the result by itself, besides the run's own warnings."""
    _, figures = leading(report)
    said = []
    if "federated" in figures and not any(name in figures for name in FLOORS):
        said.append("No floor was measured, so nobody can say how much of this is learned.")
    for floor in FLOORS:
        if {floor, "federated"} <= set(figures) and not _above(report, floor, figures):
            said.append(
                f"By this measure the federated encoder is not shown to be better than "
                f"{ARM_PHRASES[floor]}: treat it as having learned nothing useful yet."
            )
    return said


def the_map(pictures: Pictures) -> str:
    """Say how to read the map of the features."""
    how = f" ({pictures.projection})" if pictures.projection else ""
    said = f"Each point is an image; points close together look alike to the encoder{how}."
    if pictures.class_names:
        said += " Classes should gather."
    if pictures.sites is not None and len(set(pictures.sites.tolist())) > 1:
        said += (
            " Sites should mix: islands of one site mean that the encoder reads the scanner "
            "rather than the patient."
        )
    return said


def the_test(report: Report) -> str:
    """Say how the figures were measured; empty without figures that need labels."""
    data = report.data
    if not leading(report)[1]:
        return ""
    held = images_of(data.test_images, data.test_patients)
    classes = f" into {len(data.classes)} classes" if data.classes else ""
    repeated = counted(len(report.seeds), "repetition")
    return (
        f"The encoder is frozen. A logistic regression, and separately a vote of the nearest "
        f"training images, sort {held} that no site trained on{classes}. An AUC of 0.5 is a coin "
        f"toss, 1 is faultless. Intervals: {report.intervals} ({repeated}). Intervals that overlap "
        "do not show that two results are equal, only that this run cannot tell them apart."
    )


def leading(report: Report) -> tuple[str, dict[ArmName, Figure]]:
    """Return the measure that the sentences speak of and its figures: AUC, else 20 neighbours."""
    titles = ("AUC", "accuracy of 20 nearest neighbours")
    for title, (_, pick) in zip(titles, MEASURES, strict=True):
        figures = picked(report, pick)
        if figures:
            return title, figures
    return "", {}


def _what_was_run(report: Report) -> str:
    data, cost = report.data, report.cost
    held = images_of(data.images, data.patients)
    rounds = max((each.round for each in report.rounds), default=0)
    sites = counted(len(report.sites), "site")
    if not rounds:
        return f"{sites} with {held} stood ready, but no round was closed."
    together = "trained an encoder together" if len(report.sites) > 1 else "trained an encoder"
    again = f", {len(report.seeds)} times from different starts" if len(report.seeds) > 1 else ""
    return (
        f"{sites} with {held} {together} in {counted(rounds, 'round')}{again}, without labels and "
        f"without sharing an image: only weights travelled, {amount(cost.bytes_up)} to the "
        f"coordinator and {amount(cost.bytes_down)} back. It took {duration(cost.wall_s)}."
    )


def _what_came_of_it(report: Report) -> str:
    title, figures = leading(report)
    if "federated" not in figures:
        reason = "" if report.data.classes else "The images carry no labels, so "
        return f"{reason}{'h' if reason else 'H'}ow useful its features are was not measured."
    others = [
        f"{number(figures[name].mean, 2)} {REACHED[name]}" for name in REACHED if name in figures
    ]
    against = f", against {listed(others)}" if others else ""

    return f"A simple classifier on the shared encoder's features reached an {title} of " + (
        f"{spoken(figures['federated'], 2)}{against}."
    )


def _verdict(report: Report, other: ArmName, figures: dict[ArmName, Figure]) -> str:
    paired = (report.differences or {}).get(f"federated-{other}")
    ours, theirs = figures["federated"], figures[other]
    gap = paired or Figure(
        mean=ours.mean - theirs.mean, low=ours.low - theirs.high, high=ours.high - theirs.low, n=1
    )
    apart = gap.low > 0 or gap.high < 0
    how = "above" if gap.low > 0 else "below"
    if paired:
        shown = spoken(paired, sign=True)
        if apart:
            return f"Federated is {how} {ARM_PHRASES[other]}: paired difference {shown}."
        return (
            f"Federated and {ARM_PHRASES[other]} are not told apart: the paired difference "
            f"{shown} includes zero."
        )
    if apart:
        return f"Federated is {how} {ARM_PHRASES[other]}: the intervals do not overlap."
    return f"Federated and {ARM_PHRASES[other]} are not told apart: their intervals overlap."


def _above(report: Report, other: ArmName, figures: dict[ArmName, Figure]) -> bool:
    paired = (report.differences or {}).get(f"federated-{other}")
    if paired:
        return paired.low > 0
    return figures["federated"].low > figures[other].high
