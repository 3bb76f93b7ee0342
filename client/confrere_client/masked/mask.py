"""A site's part in a masked round: a pure state machine that refuses rather than trusts.

    advertise -> share -> receive -> mask -> confirm -> reveal

Each step takes the state that the one before it gave, and gives the next beside what is sent. A
step that finds anything amiss raises ExchangeError; whoever calls then drops the state, so that the
round goes no further at this site, whatever comes later.

Guarantee: for one other site, it reveals its share of that site's own seed, or of its mask key:
never both, only once, and only when a threshold of sites signed that they were told the same.
Guarantee: an update is masked once for a round, even if the round is tried again.

Source: Bonawitz et al. 2017, section 4, figure 4, with the steps against an active adversary.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from confrere_client.masked.mask_state import (
    Advertised,
    Confirmed,
    Floor,
    HeldPair,
    History,
    Masked,
    Member,
    Peer,
    Received,
    Seen,
    Shared,
)
from confrere_common.errors import ExchangeError
from confrere_common.secagg import masks
from confrere_common.secagg.fixed_point import Vector, to_fixed
from confrere_common.secagg.masks import SEED_BYTES, Draw
from confrere_common.secagg.messages import (
    Advert,
    Confirmation,
    Delivery,
    Held,
    Params,
    Question,
    Revealed,
    Roll,
    Sealed,
    Shares,
    Signed,
    Sites,
    Survivors,
    advert_text,
    confirmation_text,
    digest_of,
    digest_of_seed,
    encode,
    read_advert,
)
from confrere_common.secagg.section import (
    MODULUS_BITS,
    SITES_AT_LEAST,
    bits_within,
    least_threshold,
)
from confrere_common.secagg.shares import split
from confrere_common.weights import Weights

# ---------------------------------------------------------------------------------- keys


def advertise(
    params: Params, member: Member, floor: Floor, history: History, draw: Draw
) -> tuple[Advertised, Signed, History]:
    """Announce fresh keys for a round that this site accepts and has not yet had."""
    _must_be_acceptable(params, member, floor)
    history = _entered(history, params)
    digest = digest_of(params)
    mask_seed, seal_seed = draw(SEED_BYTES), draw(SEED_BYTES)
    advert = Advert(
        params=digest,
        site=member.site,
        mask_key=masks.public_of(masks.private_of(mask_seed, digest, "mask")),
        seal_key=masks.public_of(masks.private_of(seal_seed, digest, "seal")),
    )
    body = encode(advert)
    signed = Signed(site=member.site, body=body, signature=member.sign(advert_text(body)))
    state = Advertised(params=params, mask_seed=mask_seed, seal_seed=seal_seed, advert=signed)
    return state, signed, history


def _must_be_acceptable(params: Params, member: Member, floor: Floor) -> None:
    sites, least = len(params.sites), max(floor.sites, SITES_AT_LEAST)
    due = max(least_threshold(max(sites, 1)), floor.survivors)
    if sites < least:
        raise ExchangeError(f"a masked round among {sites} sites; this site asks at least {least}")
    if not due <= params.threshold <= sites:
        raise ExchangeError(
            f"the threshold is {params.threshold} of {sites} sites; this site asks at least {due}"
        )
    if member.site not in params.sites:
        raise ExchangeError("this site is not among those of the masked round")
    if params.roster != member.roster:
        raise ExchangeError("the roster of the masked round is not the one that is pinned here")
    if not floor.bits <= params.bits <= bits_within(MODULUS_BITS, sites):
        raise ExchangeError(
            f"{params.bits} bits a value with {sites} sites; this site accepts {floor.bits} to "
            f"{bits_within(MODULUS_BITS, sites)}"
        )


def _entered(history: History, params: Params) -> History:
    """Return *history* with this try in it; ExchangeError when it is an old one, or was masked."""
    mine = [one for one in history if (one.run, one.seed) == (params.run, params.seed)]
    for last in mine:
        if params.round == last.round and last.masked:
            raise ExchangeError(
                f"round {params.round} had this site's masked update already; a second sum with it "
                "in another cohort could show it"
            )
        if (params.round, params.attempt) <= (last.round, last.attempt):
            raise ExchangeError(
                f"round {params.round}, attempt {params.attempt}, is not after round {last.round}, "
                f"attempt {last.attempt}, in which this site had a part: it is replayed"
            )
    now = Seen(
        run=params.run,
        seed=params.seed,
        round=params.round,
        attempt=params.attempt,
        masked=False,
    )
    return (*(one for one in history if one not in mine), now)


# -------------------------------------------------------------------------------- shares


def share(state: Advertised, roll: Roll, member: Member, draw: Draw) -> tuple[Shared, Shares]:
    """Seal shares of both secrets for every other site of the roll."""
    params, digest = state.params, digest_of(state.params)
    peers = _peers(state, roll, member)
    shared = Shared(
        params=params,
        mask_seed=state.mask_seed,
        seal_seed=state.seal_seed,
        own_seed=(own_seed := draw(SEED_BYTES)),
        peers=peers,
        roll=digest_of(roll),
        own=(pairs := _split(params, own_seed, state.mask_seed))[params.place(member.site) - 1],
    )
    boxes = tuple(
        Sealed(site=peer.site, box=_sealed(shared, peer, member, pairs, draw)) for peer in peers
    )
    seed_digest = digest_of_seed(own_seed, digest, member.site)
    return shared, Shares(params=digest, seed_digest=seed_digest, boxes=boxes)


def _peers(state: Advertised, roll: Roll, member: Member) -> tuple[Peer, ...]:
    """Return all others of the roll, every signature verified before its bytes are read."""
    digest = digest_of(state.params)
    _must_be_of(roll.params, digest)
    if state.advert not in roll.adverts:
        raise ExchangeError("the roll does not hold this site's keys as it announced them")
    adverts = [read_advert(signed, state.params, member.verify) for signed in roll.adverts]
    names = [advert.site for advert in adverts]
    if len(set(names)) != len(names):
        raise ExchangeError("the roll names a site twice")
    if len(names) < state.params.threshold:
        raise ExchangeError(
            f"the roll has {len(names)} sites; the threshold is {state.params.threshold}"
        )
    return tuple(
        Peer(site=one.site, mask_key=one.mask_key, seal_key=one.seal_key)
        for one in sorted(adverts, key=lambda advert: advert.site)
        if one.site != member.site
    )


def _split(params: Params, own_seed: bytes, mask_seed: bytes) -> list[HeldPair]:
    """Return the pair for each site of the round, by place."""
    count = len(params.sites)
    seeds = split(own_seed, params.threshold, count)
    keys = split(mask_seed, params.threshold, count)
    return [
        HeldPair(site=site, seed=seed, key=key)
        for site, seed, key in zip(params.sites, seeds, keys, strict=True)
    ]


def _sealed(state: Shared, peer: Peer, member: Member, pairs: list[HeldPair], draw: Draw) -> bytes:
    pair = pairs[state.params.place(peer.site) - 1]
    key, context = _sealing(state, peer, member.site, peer.site)
    return masks.seal(key, pair.seed + pair.key, context, draw)


def _sealing(state: Shared, peer: Peer, source: str, target: str) -> tuple[bytes, bytes]:
    """Return key and context of the box from *source* to *target*: one direction, one roll."""
    params = digest_of(state.params)
    private = masks.private_of(state.seal_seed, params, "seal")
    secret = masks.agreed(private, peer.seal_key)
    context = f"{params} {state.roll}".encode()
    return masks.derive(secret, "share", params, state.roll, source, target), context


# ------------------------------------------------------------------------------- masking


def receive(state: Shared, delivery: Delivery, member: Member) -> Received:
    """Take in the others' shares; before any image is read, since it may be the round's end.

    A box that does not open is passed over: whoever sealed it falsely must not stop the others.
    """
    params = state.params
    _must_be_of(delivery.params, digest_of(params))
    known = {peer.site: peer for peer in state.peers}
    sources = [sealed.site for sealed in delivery.boxes]
    if len(set(sources)) != len(sources) or not set(sources) <= known.keys():
        raise ExchangeError("the delivery holds a box twice, or of a site that is not on the roll")
    held = [state.own]
    for sealed in delivery.boxes:
        pair = _opened(state, known[sealed.site], sealed.box, member)
        held += [pair] if pair is not None else []
    if len(held) < params.threshold:
        raise ExchangeError(
            f"{len(held)} of the delivered shares could be opened, this site's own included; the "
            f"threshold is {params.threshold}"
        )
    sharers = tuple(sorted([member.site, *sources]))
    return Received(
        params=params,
        mask_seed=state.mask_seed,
        own_seed=state.own_seed,
        peers=tuple(known[site] for site in sharers if site != member.site),
        roll=state.roll,
        held=tuple(held),
        sharers=sharers,
    )


def _opened(state: Shared, peer: Peer, box: bytes, member: Member) -> HeldPair | None:
    key, context = _sealing(state, peer, peer.site, member.site)
    plain = masks.unseal(key, box, context)
    if plain is None:
        return None
    return HeldPair(site=peer.site, seed=plain[:SEED_BYTES], key=plain[SEED_BYTES:])


def mask(
    state: Received,
    member: Member,
    history: History,
    delta: Weights,
    images: int,
    generator: np.random.Generator,
) -> tuple[Masked, Vector, History]:
    """Return the update under its masks. The history returned must be kept before it is sent.

    *generator* rounds; it need not be secret.
    """
    params, digest = state.params, digest_of(state.params)
    vector = to_fixed(delta, images, params.point, generator)
    private = masks.private_of(state.mask_seed, digest, "mask")
    keys = {
        peer.site: masks.pair_key(private, peer.mask_key, digest, (member.site, peer.site))
        for peer in state.peers
    }
    plus = [key for site, key in keys.items() if member.site < site]
    minus = [key for site, key in keys.items() if member.site > site]
    masks.add_masks(vector, [masks.own_key(state.own_seed, digest), *plus], minus)
    after = Masked(params=params, roll=state.roll, held=state.held, sharers=state.sharers)
    return after, vector, _marked(history, params)


def _marked(history: History, params: Params) -> History:
    def now(one: Seen) -> bool:
        return (one.run, one.seed, one.round) == (params.run, params.seed, params.round)

    return tuple(replace(one, masked=True) if now(one) else one for one in history)


# ---------------------------------------------------------------------------- unmasking


def confirm(state: Masked, survivors: Survivors, member: Member) -> tuple[Confirmed, Confirmation]:
    """Sign who is said to have survived; signed once, so two tales can't both win a threshold."""
    digest = digest_of(state.params)
    _must_be_of(survivors.params, digest)
    _must_be_survivors(state, survivors.sites, member)
    text = confirmation_text(digest, state.roll, state.sharers, survivors.sites)
    said_so = Confirmation(params=digest, site=member.site, signature=member.sign(text))
    after = Confirmed(
        params=state.params,
        roll=state.roll,
        held=state.held,
        sharers=state.sharers,
        survivors=survivors.sites,
    )
    return after, said_so


def _must_be_survivors(state: Masked, sites: Sites, member: Member) -> None:
    if not set(sites) <= set(state.sharers):
        raise ExchangeError("the survivors hold a site that shared nothing")
    if member.site not in sites:
        raise ExchangeError("this site is not among the survivors, so it has nothing to reveal")
    if len(sites) < state.params.threshold:
        raise ExchangeError(
            f"{len(sites)} sites survived; the threshold is {state.params.threshold}"
        )


def reveal(state: Confirmed, question: Question, member: Member) -> Revealed:
    """Give one share of each site, of its own seed or of its mask key.

    There is no state after this one: what the site held must be forgotten.
    """
    digest = digest_of(state.params)
    _must_be_of(question.params, digest)
    survivors, dropped = set(question.survivors), set(question.dropped)
    if survivors & dropped:
        raise ExchangeError(
            f"both shares of '{min(survivors & dropped)}' are asked for; together they show its "
            "update"
        )
    if question.survivors != state.survivors or dropped != set(state.sharers) - survivors:
        raise ExchangeError("the survivors asked about are not those that this site has signed")
    _must_be_confirmed(state, question, member)
    return Revealed(
        params=digest,
        seeds=_of(survivors, {pair.site: pair.seed for pair in state.held}),
        keys=_of(dropped, {pair.site: pair.key for pair in state.held}),
    )


def _must_be_confirmed(state: Confirmed, question: Question, member: Member) -> None:
    digest = digest_of(state.params)
    text = confirmation_text(digest, state.roll, state.sharers, state.survivors)
    confirmed = {
        one.site
        for one in question.confirmations
        if one.params == digest
        and one.site in state.survivors
        and member.verify(one.site, text, one.signature)
    }
    if len(confirmed) < state.params.threshold:
        raise ExchangeError(
            f"{len(confirmed)} sites confirmed the survivors that this site was told; the "
            f"threshold is {state.params.threshold}: some were told otherwise"
        )


def _of(sites: set[str], shares: Mapping[str, bytes]) -> tuple[Held, ...]:
    return tuple(Held(site=site, share=shares[site]) for site in sorted(sites & shares.keys()))


def _must_be_of(named: str, digest: str) -> None:
    if named != digest:
        raise ExchangeError("a message belongs to another masked round than the one in progress")
