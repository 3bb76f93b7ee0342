"""Rows of the report's tables: long ones are cut, and say so."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from confrere_deploy.report.curves import HEALTH, alarm_metric
from confrere_deploy.report.figures import auc, knn_accuracy, picked
from confrere_deploy.report.schema import ARMS, Arm, ArmName, Figure, Report, RoundSite
from confrere_deploy.report.words import (
    ARM_NAMES,
    amount,
    brief,
    counted,
    duration,
    images_of,
    spoken,
)

SITES_SHOWN, SITES_LISTED, ROUNDS_LISTED, EVENTS_LISTED = 12, 1000, 150, 20

Rows = list[dict[str, Any]]


def arms(report: Report) -> Rows:
    """Return a row for each arm, the best informed first."""
    return [_arm(name, report.arms[name]) for name in reversed(ARMS) if name in report.arms]


def _arm(name: ArmName, arm: Arm) -> dict[str, Any]:
    linear = arm.linear
    return {
        "name": ARM_NAMES[name],
        "ours": name == "federated",
        "auc": _said(auc(arm)),
        "accuracy": _said(linear.accuracy if linear else None),
        "balanced": _said(linear.balanced_accuracy if linear else None),
        "knn": _said(knn_accuracy(arm)),
        "rankme": _said(arm.rankme, 1),
        "n": max((f.n for f in (auc(arm), knn_accuracy(arm), arm.rankme) if f), default=0),
    }


def sites(report: Report) -> Rows:
    """Return a row for each site, the largest first."""
    work: defaultdict[str, list[RoundSite]] = defaultdict(list)
    for each in report.rounds:
        for site in each.sites:
            work[site.site].append(site)
    alone, joined = (_site_aucs(report, name) for name in ("local", "federated"))
    paid = report.joining.gains if report.joining is not None else {}
    gains = {site: _said(gain, sign=True) for site, gain in paid.items()}
    ordered = sorted(report.sites, key=lambda site: (-site.images, site.site))
    return [
        {
            "name": site.site,
            "images": f"{site.images:,}",
            "patients": brief(None) if site.patients is None else f"{site.patients:,}",
            **_worked(work[site.site]),
            "tested": "" if site.test_patients is None else f"{site.test_patients:,}",
            "alone": alone.get(site.site, ("", "")),
            "joined": joined.get(site.site, ("", "")),
            "gain": gains.get(site.site, ("", "")),
        }
        for site in ordered
    ]


def site_columns(report: Report) -> dict[str, bool]:
    """Say which columns of the sites' table hold anything."""
    return {
        "tested": any(site.test_patients is not None for site in report.sites),
        "alone": bool(_site_aucs(report, "local")),
        "joined": bool(_site_aucs(report, "federated")),
        "gain": report.joining is not None,
    }


def _site_aucs(report: Report, name: ArmName) -> dict[str, tuple[str, str]]:
    arm = report.arms.get(name)
    found = {site: auc(its) for site, its in ((arm.sites or {}) if arm else {}).items()}
    return {site: _said(figure) for site, figure in found.items() if figure is not None}


def _worked(done: list[RoundSite]) -> dict[str, Any]:
    losses = [each.loss for each in done if each.loss is not None]
    refused = sum(each.refused is not None for each in done)
    took = sum(each.seconds for each in done) / len(done) if done else 0.0
    return {
        "updates": f"{len(done) - refused:,}",
        "refused": refused,
        "loss": brief(losses[-1] if losses else None),
        "seconds": duration(took) if done else brief(None),
    }


def rounds(report: Report) -> Rows:
    """Return a row for each round; of very many, evenly spread ones with the last among them."""
    every = -(-len(report.rounds) // ROUNDS_LISTED)
    kept = list(reversed(report.rounds[::-1][:: max(every, 1)]))
    return [
        {
            "round": each.round,
            "seed": each.seed,
            "loss": brief(each.loss),
            "taken": sum(site.refused is None for site in each.sites),
            "asked": len(each.sites),
            "up": amount(each.bytes_up),
            "down": amount(each.bytes_down),
            "seconds": duration(each.seconds),
        }
        for each in kept
    ]


def left_out(report: Report) -> tuple[list[str], int]:
    """Say which updates were left out and why, and how many more than are listed."""
    return _cut(
        f"Round {each.round}, seed {each.seed}: {site.site}: {site.refused}"
        for each in report.rounds
        for site in each.sites
        if site.refused is not None
    )


def alarms(report: Report) -> tuple[list[str], int]:
    """Say which sites' features raised an alarm, grouped, and how many more than are listed."""
    raised = Counter(
        (site.site, alarm_metric(alarm))
        for each in report.rounds
        for site in each.sites
        for alarm in site.alarms or ()
    )
    return _cut(
        f"{site}: {_metric(name)} spoke of a collapse in {counted(times, 'round')}"
        for (site, name), times in raised.most_common()
    )


def _metric(name: str) -> str:
    return HEALTH.get(name, name).split(":")[0]


def cost(report: Report) -> list[tuple[str, str]]:
    """Return what the run took, and on what machine."""
    spent, machine = report.cost, report.machine
    cores = counted(machine.cores, "core")
    again = f" in {spent.sessions:,} sessions" if (spent.sessions or 1) > 1 else ""
    own = []
    if spent.cpu_s is not None and spent.peak_rss_mib is not None:
        own = [
            ("Processor time", duration(spent.cpu_s)),
            ("Largest memory", amount(round(spent.peak_rss_mib * 1024**2))),
        ]
    return [
        ("Time", duration(spent.wall_s) + again),
        *own,
        ("Sent by the sites", amount(spent.bytes_up)),
        ("Received by the sites", amount(spent.bytes_down)),
        ("Images trained on per second", f"{spent.images_per_s:,.4g}"),
        ("Machine", ", ".join(part for part in (machine.cpu, cores, machine.gpu) if part)),
    ]


def protection(report: Report) -> list[tuple[str, str]]:
    """Return what was promised to patients and sites."""
    promised = report.protection
    if promised is None:
        return []
    hidden = "no: whoever sees an update may learn of a patient from it"
    if promised.unit is not None:
        hidden = (
            f"epsilon {promised.epsilon:g}, delta {promised.delta:g} for each {promised.unit} "
            "of a site, over the whole run"
        )
    masked = "yes: the coordinator saw sums of sites' updates alone"
    open_ = "no: the coordinator saw each site's update"
    return [
        ("Differential privacy", hidden),
        ("Secure aggregation", masked if promised.secure_aggregation else open_),
    ]


def protected_sites(report: Report) -> Rows:
    """Return a row for each site of a private run."""
    sites = report.protection.sites if report.protection is not None else ()
    return [
        {
            "name": site.site,
            "patients": f"{site.patients:,}",
            "rate": f"{site.rate:.3g}",
            "noise": f"{site.noise_multiplier:.3g}",
            "clip": f"{site.clip_norm:g}",
            "steps": f"{site.rounds} x {site.steps_per_round}",
            "epsilon": f"{site.epsilon:.2f}",
            "delta": f"{site.delta:g}",
        }
        for site in sites[:SITES_LISTED]
    ]


def data(report: Report) -> list[tuple[str, str]]:
    """Return what is known of the images."""
    held = report.data
    size = " \N{MULTIPLICATION SIGN} ".join(str(side) for side in held.size)
    classes = [str(name) for name in held.classes[:EVENTS_LISTED]]
    more = len(held.classes) - len(classes)
    rows = [
        ("To train", images_of(held.images, held.patients)),
        ("To measure", images_of(held.test_images, held.test_patients)),
        ("Size", f"{size} px, {counted(held.channels, 'channel')}"),
        ("Modality", held.modality or "not named"),
        ("Classes", ", ".join(classes) + (f" and {more} more" if more else "") or "no labels"),
    ]
    if held.preparation:
        rows.append(("Prepared", _prepared(held.preparation)))
    if report.skipped.count:
        reasons = [f"{reason} ({times:,})" for reason, times in report.skipped.reasons.items()]
        told = f": {', '.join(reasons[:EVENTS_LISTED])}" if reasons else ""
        rows.append(("Skipped", f"{counted(report.skipped.count, 'file')}{told}"))
    return rows


def _prepared(preparation: Mapping[str, Any]) -> str:
    """Return how images were prepared, in a line."""
    return "; ".join(
        f"{key.replace('_', ' ')} {_plain(value)}" for key, value in preparation.items()
    )


def _plain(value: Any) -> str:
    """Return a value of a preparation as words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(one)}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def measured_columns(report: Report) -> dict[str, bool]:
    """Say which columns of the arms' table hold a figure."""
    picks = {
        "auc": auc,
        "accuracy": lambda arm: arm.linear.accuracy if arm.linear else None,
        "balanced": lambda arm: arm.linear.balanced_accuracy if arm.linear else None,
        "knn": knn_accuracy,
        "rankme": lambda arm: getattr(arm, "rankme", None),
    }
    return {name: bool(picked(report, pick)) for name, pick in picks.items()}


def _said(figure: Figure | None, digits: int = 3, *, sign: bool = False) -> tuple[str, str]:
    """Return the mean and, apart from it, the interval."""
    mean, _, interval = (spoken(figure, digits, sign=sign) if figure else brief(None)).partition(
        " "
    )
    return mean, interval.strip("()")


def _cut(lines: Any) -> tuple[list[str], int]:
    said = list(lines)
    return said[:EVENTS_LISTED], max(len(said) - EVENTS_LISTED, 0)
