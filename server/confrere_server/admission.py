"""Updates are admitted, not believed: each is judged alone, a bad one costs only its own site.

All of it is pure: an update and what is known of its site go in, a verdict comes out; the repute
of all sites is a value that the run keeps with its state.

What it can't do: tell a poisoned update of ordinary length from an honest one. Length and weight
bound how fast one site can move the model; they do not show that it does.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from statistics import median
from typing import Any

import torch

from confrere_common.errors import ExchangeError
from confrere_common.exchange import Update
from confrere_common.limits import Limits
from confrere_common.weights import Weights, lumps, must_fit, must_match, scale

ROUNDS_LOOKED_BACK = 10
"""Offences and lengths older than this many rounds count no more."""

FIGURES_AT_MOST = 64

FIGURE_NAME = 64
"""Characters of the longest name of a figure."""


@dataclass(frozen=True, kw_only=True)
class Repute:
    """What the coordinator remembers of how sites behaved; saved with the run's state."""

    lengths: tuple[float, ...] = ()
    """Median length of the admitted updates of the last rounds, newest last."""

    offences: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Site -> rounds in which its update was left out, of the last ten."""

    suspended: tuple[str, ...] = ()
    """Sites that are asked no more until the coordinator clears them."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "lengths": list(self.lengths),
            "offences": {site: list(rounds) for site, rounds in self.offences.items()},
            "suspended": list(self.suspended),
        }


def read_repute(plain: Mapping[str, Any]) -> Repute:
    """Return the repute that ``as_dict`` wrote."""
    return Repute(
        lengths=tuple(plain["lengths"]),
        offences={site: tuple(rounds) for site, rounds in plain["offences"].items()},
        suspended=tuple(plain["suspended"]),
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one update."""

    site: str
    update: Update | None = None
    """The update to join, shortened where the run says so; None when it is left out."""

    length: float = 0.0
    """Its length as it is joined."""

    fault: str = ""
    """Why it is left out, empty when it is not; it speaks of the update alone."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What an update of one round is held against."""

    template: Weights
    """The run's own weights: names, shapes and types of every update."""

    limits: Limits
    repute: Repute = field(default_factory=Repute)
    enrolled: Mapping[str, int] = field(default_factory=dict)
    """Site -> images that it enrolled with; a site that is not named may say any number."""


def judged(update: Update, gate: Gate) -> Verdict:
    """Admit *update*, or leave it out with the reason; it is never changed in place."""
    try:
        return _admitted(update, gate)
    except ExchangeError as fault:
        return Verdict(site=update.site, fault=str(fault))


def _admitted(update: Update, gate: Gate) -> Verdict:
    must_match(update.delta, gate.template)
    length = length_of(update.delta)
    if not isfinite(length):  # what is no number makes a length none: this says where it is
        must_fit(update.delta, gate.template)
    _must_weigh(update, gate.enrolled)
    if len(update.metrics) > FIGURES_AT_MOST:
        raise ExchangeError(
            f"it tells {len(update.metrics)} figures; at most {FIGURES_AT_MOST} are read"
        )
    if any(len(name) > FIGURE_NAME or not name.isprintable() for name in update.metrics):
        raise ExchangeError("it tells a figure whose name is none")
    _must_be_short(length, gate)
    bound = clip_bound(gate.repute, gate.limits)
    if bound is not None and length > bound:
        update = replace(update, delta=scale(update.delta, bound / length))
        length = bound
    return Verdict(site=update.site, update=update, length=length)


def length_of(delta: Weights) -> float:
    """Return the Euclidean norm of an update, in one pass over it."""
    # One by one: an update may lie in a file, and all its tensors together would be a model more.
    parts = [torch.linalg.vector_norm(lump, dtype=torch.float64) for lump in lumps(delta)]
    if len(parts) == 1:
        return float(parts[0])
    return float(torch.linalg.vector_norm(torch.stack(parts))) if parts else 0.0


def _must_weigh(update: Update, enrolled: Mapping[str, int]) -> None:
    images: Any = update.images
    if not isinstance(images, int) or isinstance(images, bool):
        raise ExchangeError(f"it names {images!r} images, which is no whole number")
    if images < 1:
        raise ExchangeError(f"it names {images} images; an update needs at least 1")
    due = enrolled.get(update.site)
    if due is not None and images != due:
        raise ExchangeError(f"it names {images} images; it enrolled with {due}")


def _must_be_short(length: float, gate: Gate) -> None:
    """Refuse an update that is far longer than was usual in the last rounds.

    A site's own last length widens nothing: it could be made longer round by round. The first
    round has no bound unless ``norm`` is set, since nothing is usual yet.
    """
    limits, repute = gate.limits, gate.repute
    if limits.norm is not None and length > limits.norm:
        raise ExchangeError(
            f"its length is {length:.3g}; federation.limits.norm is {limits.norm:g}"
        )
    usual = usual_length(repute)
    if limits.norm_ratio is None or usual is None:
        return
    bound = limits.norm_ratio * usual
    if length > bound:
        raise ExchangeError(
            f"its length is {length:.3g}; updates of the last rounds were about {usual:.3g}, and "
            f"federation.limits.norm_ratio is {limits.norm_ratio:g}"
        )


def usual_length(repute: Repute) -> float | None:
    """Return the median over the last rounds of their median lengths; None before the first."""
    return median(repute.lengths) if repute.lengths else None


def clip_bound(repute: Repute, limits: Limits) -> float | None:
    """Return the length to which updates are shortened in this round; None when they are not.

    It depends on earlier rounds alone, so no update of a round moves the bound of that round.
    """
    usual = usual_length(repute)
    return None if usual is None or limits.clip_ratio is None else limits.clip_ratio * usual


# ------------------------------------------------------------------------------- repute


def after_round(repute: Repute, verdicts: Iterable[Verdict], number: int, limits: Limits) -> Repute:
    """Return the repute with a round's verdicts in it: who erred too often is suspended."""
    verdicts = list(verdicts)
    admitted = {one.site: one.length for one in verdicts if not one.fault}
    offences = {
        site: tuple(one for one in rounds if one > number - ROUNDS_LOOKED_BACK)
        for site, rounds in repute.offences.items()
    }
    for one in verdicts:
        if one.fault:
            offences[one.site] = (*offences.get(one.site, ()), number)
    often = {site for site, rounds in offences.items() if len(rounds) >= limits.offences}
    # A round in which nobody moved says nothing of how long updates are.
    moved = [length for length in admitted.values() if length > 0]
    lengths = (*repute.lengths, median(moved)) if moved else repute.lengths
    return Repute(
        lengths=lengths[-ROUNDS_LOOKED_BACK:],
        offences={site: rounds for site, rounds in offences.items() if rounds},
        suspended=tuple(sorted({*repute.suspended, *often})),
    )


def cleared(repute: Repute, site: str) -> Repute:
    """Return the repute with *site* asked again, its offences forgotten."""
    return replace(
        repute,
        offences={name: rounds for name, rounds in repute.offences.items() if name != site},
        suspended=tuple(name for name in repute.suspended if name != site),
    )


# -------------------------------------------------------------------------------- weights


def weight_cap(weights: Sequence[float], share: float) -> float:
    """Return the largest c so that no min(weight, c) is over *share* of the sum of them all.

    Where that can't be (with k weights and share * k <= 1, some must have at least 1/k), it is the
    smallest weight: all then weigh the same. It holds for every weight if none is over its share.
    """
    ordered = sorted(weights, reverse=True)
    if not ordered:
        return 0.0
    if share * len(ordered) <= 1:
        return float(ordered[-1])
    rest = float(sum(ordered))
    for capped, weight in enumerate(ordered):
        # With `capped` of them at c, c = share * (capped * c + rest).
        cap = share * rest / (1 - share * capped) if share * capped < 1 else 0.0
        if weight <= cap:
            return float(ordered[0]) if capped == 0 else cap
        rest -= weight
    return float(ordered[-1])


def surely_uncut(enrolled: Mapping[str, int], share: float, least: int) -> frozenset[str]:
    """Return the sites that no cap touches, whichever *least* or more of them answer."""
    ordered = sorted(enrolled.values())
    return frozenset(
        site
        for site, images in enrolled.items()
        # The cap only grows with who else answers: at its lowest, those are the smallest.
        if share * least > 1
        and len(ordered) >= least
        and images <= weight_cap([*_others(ordered, images)[: least - 1], images], share)
    )


def _others(ordered: Sequence[int], images: int) -> list[int]:
    place = bisect_left(ordered, images)
    return [*ordered[:place], *ordered[place + 1 :]]


def capped(updates: Iterable[Update], share: float, sure: Collection[str] = ()) -> Iterator[Update]:
    """Yield *updates* with their images cut so that none is over *share* of the sum of all.

    Only the few that may be over it at the end are held back until then: fewer than 1 / share, two
    at 0.4; one is let go as soon as the others outweigh it for certain. Those that are known
    beforehand to stay under it, *sure*, are never held back.
    """
    held: list[Update] = []
    seen: list[int] = []
    most = _held_at_most(share)
    for update in updates:
        seen.append(update.images)
        if update.site in sure:
            yield update
        else:
            held.append(update)
        del update  # while the next is made, only those held may be there
        held.sort(key=lambda one: one.images)
        while held and (len(held) > most or _surely_under(held[0].images, seen, share)):
            yield held.pop(0)
    cap = weight_cap(seen, share)
    while held:
        update = held.pop()
        yield replace(update, images=max(1, min(update.images, int(cap))))


def _held_at_most(share: float) -> int:
    # A cap binds the largest m weights only, where m * share < 1.
    count = 0
    while (count + 1) * share < 1:
        count += 1
    return count


def _surely_under(images: int, seen: Sequence[int], share: float) -> bool:
    """Say whether so many images stay uncut, whatever else comes."""
    return share * len(seen) > 1 and images <= weight_cap(seen, share)
