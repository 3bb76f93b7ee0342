"""The coordinator's side of a masked round: it folds what it can't read, and gets the sum.

Five exchanges over an abstract transport. Up to n - threshold sites may fall silent, refuse or
answer rubbish at any of them; below the threshold the round is void. One vector is held, however
many sites answer.

Source: Bonawitz et al. 2017, figure 4; see ``confrere_common.secagg`` for what is promised.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np

from confrere_common.errors import ExchangeError, RoundError
from confrere_common.exchange import Refusal, Task
from confrere_common.secagg import masks
from confrere_common.secagg.fixed_point import EXTRA, Vector, from_fixed
from confrere_common.secagg.messages import (
    Advert,
    Confirmation,
    Delivery,
    Held,
    Invitation,
    Params,
    Question,
    Reply,
    Request,
    Revealed,
    Roll,
    Sealed,
    Shares,
    Signed,
    Survivors,
    Verify,
    confirmation_text,
    digest_of,
    digest_of_seed,
    encode,
    read_advert,
)
from confrere_common.secagg.shares import combine
from confrere_common.weights import Weights, count

Carry: TypeAlias = Callable[
    [Mapping[str, Request], Task | None], Iterable[tuple[str, Reply | Refusal]]
]
"""Bring each site its own request, the task as well if there is one, and yield what they reply, as
it comes and with who replied. It ends when all have replied or their time is up."""

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Sum:
    """What a masked round gave."""

    delta: Weights
    """The mean update, each site weighing as its images."""

    images: int
    """Images of all sites in it; those of a single one stay unknown."""

    sites: tuple[str, ...]
    """Whose updates are in it."""


@dataclass(frozen=True, kw_only=True)
class Talk:
    """One masked round in progress."""

    params: Params
    carry: Carry
    verify: Verify
    digest: str
    left: dict[str, str] = field(default_factory=dict)
    """Site -> why it fell out."""

    bytes_up: dict[str, int] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)


def start_talk(params: Params, carry: Carry, verify: Verify) -> Talk:
    """Return a round about to begin."""
    return Talk(params=params, carry=carry, verify=verify, digest=digest_of(params))


def sum_of(talk: Talk, task: Task) -> Sum:
    """Carry a round through and return its sum; RoundError when too few sites stay to the end.

    Whoever fell out, and why, stands in ``talk.left`` either way.
    """
    adverts, roll = _keys(talk)
    shares = _shares(talk, roll)
    total, survivors = _updates(talk, shares, task)
    confirmations = _confirmations(talk, roll, tuple(sorted(shares)), survivors)
    dropped = tuple(sorted(shares.keys() - set(survivors)))
    answers = _revealed(talk, survivors, dropped, confirmations)
    seeds = _seeds(talk, survivors, shares, answers)
    keys = _keys_of_dropped(talk, dropped, adverts, answers)
    _take_off(total, talk.digest, adverts, seeds, keys)
    delta, images, sites = from_fixed(total, task.weights, talk.params.point)
    most = talk.params.weight_max * len(survivors)
    if sites != len(survivors) or not len(survivors) <= images <= most:
        raise RoundError("the masks did not cancel: a site masked other than it announced")
    return Sum(delta=delta, images=images, sites=survivors)


# ------------------------------------------------------------------------- the five exchanges


def _keys(talk: Talk) -> tuple[dict[str, Advert], Roll]:
    invitation = Invitation(params=talk.params)
    probe = masks.private_of(bytes(masks.SEED_BYTES), talk.digest, "probe")
    adverts: dict[str, Advert] = {}
    signed: dict[str, Signed] = {}
    for site, one in _ask(talk, dict.fromkeys(talk.params.sites, invitation), Signed):
        with _blaming(talk, site):
            advert = read_advert(one, talk.params, talk.verify)
            _must_be(advert.site, site)
            # A key of low order would make every other site refuse the round.
            masks.agreed(probe, advert.mask_key)
            masks.agreed(probe, advert.seal_key)
            adverts[site], signed[site] = advert, one
    _enough(talk, adverts, "announced keys")
    roll = Roll(params=talk.digest, adverts=tuple(signed[site] for site in sorted(signed)))
    return adverts, roll


def _shares(talk: Talk, roll: Roll) -> dict[str, Shares]:
    names = {one.site for one in roll.adverts}
    shares: dict[str, Shares] = {}
    for site, one in _ask(talk, dict.fromkeys(sorted(names), roll), Shares):
        with _blaming(talk, site):
            _must_be(one.params, talk.digest)
            if sorted(box.site for box in one.boxes) != sorted(names - {site}):
                raise ExchangeError("it did not give one share to each other site")
            shares[site] = one
    _enough(talk, shares, "gave shares")
    return shares


def _updates(
    talk: Talk, shares: Mapping[str, Shares], task: Task
) -> tuple[Vector, tuple[str, ...]]:
    """Fold each masked vector as it arrives, and let it go."""
    deliveries = _deliveries(talk.digest, shares)
    total = np.zeros(count(task.weights) + EXTRA, np.uint32)
    survivors: list[str] = []
    for site, vector in _ask(talk, deliveries, np.ndarray, task):
        with _blaming(talk, site):
            _must_be_vector(vector, len(total))
            total += vector
            survivors.append(site)
        del vector
    _enough(talk, survivors, "sent updates")
    return total, tuple(sorted(survivors))


def _deliveries(digest: str, shares: Mapping[str, Shares]) -> dict[str, Request]:
    boxes: dict[str, list[Sealed]] = {site: [] for site in shares}
    for source in sorted(shares):
        for sealed in shares[source].boxes:
            if sealed.site in boxes:  # the others have fallen out since
                boxes[sealed.site].append(Sealed(site=source, box=sealed.box))
    return {site: Delivery(params=digest, boxes=tuple(found)) for site, found in boxes.items()}


def _must_be_vector(vector: Any, length: int) -> None:
    if vector.dtype != np.uint32 or vector.shape != (length,):
        raise ExchangeError(
            f"its masked update is {vector.dtype}{list(vector.shape)}; due is uint32[{length}]"
        )


def _confirmations(
    talk: Talk, roll: Roll, sharers: tuple[str, ...], survivors: tuple[str, ...]
) -> tuple[Confirmation, ...]:
    told = Survivors(params=talk.digest, sites=survivors)
    text = confirmation_text(talk.digest, digest_of(roll), sharers, survivors)
    found: dict[str, Confirmation] = {}
    for site, one in _ask(talk, dict.fromkeys(survivors, told), Confirmation):
        with _blaming(talk, site):
            _must_be(one.site, site)
            if not talk.verify(site, text, one.signature):
                raise ExchangeError("its confirmation is not its signature of who survived")
            found[site] = one
    _enough(talk, found, "confirmed who survived")
    return tuple(found[site] for site in sorted(found))


def _revealed(
    talk: Talk,
    survivors: tuple[str, ...],
    dropped: tuple[str, ...],
    confirmations: tuple[Confirmation, ...],
) -> dict[str, Revealed]:
    question = Question(
        params=talk.digest, survivors=survivors, dropped=dropped, confirmations=confirmations
    )
    asked = {one.site: question for one in confirmations}
    answers = {}
    for site, one in _ask(talk, asked, Revealed):
        with _blaming(talk, site):
            _must_be(one.params, talk.digest)
            answers[site] = one
    _enough(talk, answers, "gave what takes the masks off")
    return answers


# --------------------------------------------------------------------------- taking masks off


def _seeds(
    talk: Talk,
    survivors: Iterable[str],
    shares: Mapping[str, Shares],
    answers: Mapping[str, Revealed],
) -> dict[str, bytes]:
    """Return every survivor's own seed: shares that give another than it announced are false."""

    def seed_of(site: str) -> bytes | None:
        given = {of: _share(one.seeds, site) for of, one in answers.items()}
        due = shares[site].seed_digest
        return _joined(talk, given, lambda seed: digest_of_seed(seed, talk.digest, site) == due)

    return _all_found({site: seed_of(site) for site in survivors}, "seed")


def _keys_of_dropped(
    talk: Talk,
    dropped: Iterable[str],
    adverts: Mapping[str, Advert],
    answers: Mapping[str, Revealed],
) -> dict[str, bytes]:
    """Return the mask seed of every site that shared and then fell out; its key proves it."""

    def seed_of(site: str) -> bytes | None:
        given = {of: _share(one.keys, site) for of, one in answers.items()}
        due = adverts[site].mask_key
        return _joined(
            talk,
            given,
            lambda seed: masks.public_of(masks.private_of(seed, talk.digest, "mask")) == due,
        )

    return _all_found({site: seed_of(site) for site in dropped}, "mask key")


def _share(helds: Sequence[Held], site: str) -> bytes | None:
    return next((held.share for held in helds if held.site == site), None)


def _joined(
    talk: Talk, given: Mapping[str, bytes | None], right: Callable[[bytes], bool]
) -> bytes | None:
    placed = {talk.params.place(of): share for of, share in given.items() if share is not None}
    return combine(placed, talk.params.threshold, right)


def _all_found(found: Mapping[str, bytes | None], what: str) -> dict[str, bytes]:
    lost = sorted(site for site, seed in found.items() if seed is None)
    if lost:
        raise RoundError(
            f"the {what} of {', '.join(lost)} could not be put together from the shares that the "
            "others hold: it gave false ones, or too few of them came"
        )
    return {site: seed for site, seed in found.items() if seed is not None}


def _take_off(
    total: Vector,
    digest: str,
    adverts: Mapping[str, Advert],
    seeds: Mapping[str, bytes],
    keys: Mapping[str, bytes],
) -> None:
    """Take from *total* the survivors' own masks, and their masks with those who fell out."""
    plus: list[bytes] = []
    minus = [masks.own_key(seed, digest) for seed in seeds.values()]
    for gone, seed in keys.items():
        private = masks.private_of(seed, digest, "mask")
        for site in seeds:
            key = masks.pair_key(private, adverts[site].mask_key, digest, (gone, site))
            # A survivor added it where its name comes first.
            (minus if site < gone else plus).append(key)
    masks.add_masks(total, plus, minus)


# ------------------------------------------------------------------------------------ talking


def _ask(
    talk: Talk, requests: Mapping[str, Request], kind: type[R], task: Task | None = None
) -> Iterator[tuple[str, R]]:
    """Yield the first reply of this *kind* of every site asked, noting who fell out and why."""
    waiting = set(requests)
    sizes = {id(one): len(encode(one)) for one in requests.values()}
    for site, one in requests.items():
        talk.bytes_down[site] = talk.bytes_down.get(site, 0) + sizes[id(one)]
    for site, reply in talk.carry(requests, task):
        if site not in waiting:
            continue
        waiting.discard(site)
        if isinstance(reply, Refusal):
            talk.left[site] = reply.reason
        elif not isinstance(reply, kind):
            talk.left[site] = f"it answered {type(reply).__name__} and not {kind.__name__}"
        else:
            talk.bytes_up[site] = talk.bytes_up.get(site, 0) + _size(reply)
            yield site, reply
        del reply  # while the next one is made, this one must already be gone
    talk.left.update(dict.fromkeys(sorted(waiting), "it did not answer in time"))


def _size(reply: Any) -> int:
    return int(reply.nbytes) if isinstance(reply, np.ndarray) else len(encode(reply))


class _blaming:  # noqa: N801  (reads as a word of the with statement)
    """Turn a fault found in a site's reply into the reason why that site fell out."""

    def __init__(self, talk: Talk, site: str) -> None:
        self.talk, self.site = talk, site

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, fault: BaseException | None, trace: object) -> bool:
        """Note an ExchangeError and go on; let anything else pass."""
        if not isinstance(fault, ExchangeError):
            return False
        self.talk.left[self.site] = f"its answer was left out: {fault}"
        return True


def _must_be(named: str, due: str) -> None:
    if named != due:
        raise ExchangeError("it answers for another site or another round")


def _enough(talk: Talk, found: Iterable[str], did: str) -> None:
    there, due = len(list(found)), talk.params.threshold
    if there < due:
        raise RoundError(f"{there} of {len(talk.params.sites)} sites {did}; the threshold is {due}")
