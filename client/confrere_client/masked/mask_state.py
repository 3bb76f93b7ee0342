"""What a site holds in a masked round: who it is, what it asks for, what it must keep secret.

Every value has one encoding (``confrere_common.secagg.messages``), so that a state can lie in a
file between two messages; ``repr`` of a state shows no secret.
"""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import Field

from confrere_common.secagg.messages import (
    Digest,
    Key,
    Params,
    Share,
    Sign,
    Signed,
    Site,
    Sites,
    Verify,
    said,
    secret,
)
from confrere_common.secagg.section import SITES_AT_LEAST


@dataclass(frozen=True, kw_only=True)
class Member:
    """A site among those of its roster."""

    site: str
    roster: str
    """SHA-256 of the roster as pinned here."""

    sign: Sign
    verify: Verify


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What this site asks of every masked round; it may ask more than the least, never less."""

    sites: int = SITES_AT_LEAST
    """Sites that a round must be held among."""

    survivors: int = 0
    """Sites whose updates must be in the sum; the threshold's own floor holds anyhow."""

    bits: int = 16
    """Bits of one value: fewer make the sum coarse."""


@said
class Seen:
    """The newest round of a run in which this site had a part."""

    run: Digest
    seed: int
    round: int
    attempt: int
    masked: bool
    """Whether an update left: then no other try at this round may have one."""


History: TypeAlias = tuple[Seen, ...]
"""One for each repetition of a run; whoever calls keeps it on disk *before* a message leaves."""


@secret
class Advertised:
    """Keys are announced."""

    params: Params
    mask_seed: Share
    seal_seed: Share
    advert: Signed


@said
class Peer:
    """Another site as its advert says."""

    site: Site
    mask_key: Key
    seal_key: Key


@secret
class HeldPair:
    """Both shares of one site, of which at most one ever leaves."""

    site: Site
    seed: Share
    key: Share


@secret
class Shared:
    """Shares are out."""

    params: Params
    mask_seed: Share
    seal_seed: Share
    own_seed: Share
    peers: tuple[Peer, ...]
    roll: Digest
    own: HeldPair


@secret
class Received:
    """Shares of others are in; ``sharers`` are those with whom a mask is shared, this one too."""

    params: Params
    mask_seed: Share
    own_seed: Share
    peers: tuple[Peer, ...]
    roll: Digest
    held: tuple[HeldPair, ...]
    sharers: Sites


@secret
class Masked:
    """The masked update is on its way."""

    params: Params
    roll: Digest
    held: tuple[HeldPair, ...]
    sharers: Sites


@secret
class Confirmed:
    """The site has signed who survived."""

    params: Params
    roll: Digest
    held: tuple[HeldPair, ...]
    sharers: Sites
    survivors: Annotated[Sites, Field(min_length=1)]


State: TypeAlias = Advertised | Shared | Received | Masked | Confirmed
