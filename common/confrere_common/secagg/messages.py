"""What coordinator and sites say in a masked round: frozen values with exactly one encoding.

Guarantee: ``decode`` accepts nothing but what ``encode`` writes, to the byte; so a signature over
the bytes is one over the value, and no two readers see two values in the same bytes.

A round in order (coordinator -> site, site -> coordinator):
Invitation -> Signed(Advert); Roll -> Shares; Delivery -> Masked; Survivors -> Confirmation;
Question -> Revealed.
"""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar, dataclass_transform

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from confrere_common.errors import ExchangeError
from confrere_common.secagg.fixed_point import FixedPoint
from confrere_common.secagg.section import MODULUS_BITS, SITES_AT_MOST

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def said(cls: type[T]) -> type[T]:
    """Make *cls* a message: frozen, keyword-only, strict, every key and no other."""
    return _strict(cls, shown=True)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def secret(cls: type[T]) -> type[T]:
    """Make *cls* a value like a message, whose ``repr`` shows nothing of what it holds."""
    return _strict(cls, shown=False)


def _strict(cls: type[T], *, shown: bool) -> type[T]:
    config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, ser_json_bytes="hex", val_json_bytes="hex"
    )
    made = pydantic_dataclass(frozen=True, kw_only=True, repr=shown, config=config)
    return made(cls)  # type: ignore[return-value]


def _ordered(sites: tuple[str, ...]) -> tuple[str, ...]:
    if list(sites) != sorted(set(sites)):
        raise ValueError("sites stand in order, each once")
    return sites


Site = Annotated[str, Field(min_length=1, max_length=200)]
Sites = Annotated[tuple[Site, ...], Field(max_length=SITES_AT_MOST), AfterValidator(_ordered)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Key = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature = Annotated[bytes, Field(min_length=1, max_length=256)]
Box = Annotated[bytes, Field(min_length=60, max_length=60)]
"""A sealed pair of shares: 12 bytes of nonce, 32 of shares, 16 of seal."""

Share = Annotated[bytes, Field(min_length=16, max_length=16)]


@said
class Params:
    """All that a masked round is about; its digest goes into every key and every signature."""

    run: Digest
    """Of the run's canonical text."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    round: Annotated[int, Field(ge=1, lt=2**31)]
    attempt: Annotated[int, Field(ge=0, lt=2**63)]
    """Larger than that of any earlier try at this round."""

    roster: Digest
    """Of the roster of all sites and their keys, pinned at each of them."""

    weights: Digest
    """Of the shared weights as the round starts: sites given different ones share no mask, so a
    coordinator cannot single a site out by its model (https://arxiv.org/abs/2111.07380)."""

    sites: Sites
    threshold: Annotated[int, Field(ge=2, le=SITES_AT_MOST)]
    entries: Annotated[int, Field(ge=1, lt=2**34)]
    bits: Annotated[int, Field(ge=8, lt=MODULUS_BITS)]
    clip: Annotated[float, Field(gt=0, le=1000)]
    weight_max: Annotated[int, Field(ge=1, le=2**22)]

    @property
    def point(self) -> FixedPoint:
        """Return how values become whole numbers in this round."""
        return FixedPoint(bits=self.bits, clip=self.clip, weight_max=self.weight_max)

    def place(self, site: str) -> int:
        """Return where a site's share lies on the polynomial: 1 for the first."""
        return self.sites.index(site) + 1


@said
class Invitation:
    """The coordinator asks for keys."""

    params: Params


@said
class Advert:
    """A site's two public keys of this round."""

    params: Digest
    site: Site
    mask_key: Key
    seal_key: Key


@said
class Signed:
    """An advert as its bytes, with the signature of the site that it claims to be of."""

    site: Site
    body: Annotated[bytes, Field(max_length=4096)]
    signature: Signature


@said
class Roll:
    """The coordinator passes on who takes part."""

    params: Digest
    adverts: Annotated[tuple[Signed, ...], Field(max_length=SITES_AT_MOST)]


@said
class Sealed:
    """A box from one site to another."""

    site: Site
    box: Box


Boxes = Annotated[tuple[Sealed, ...], Field(max_length=SITES_AT_MOST)]


@said
class Shares:
    """A site's shares for each other site, sealed, and the digest of the seed they are of."""

    params: Digest
    seed_digest: Digest
    boxes: Boxes
    """``site`` is to whom."""


@said
class Delivery:
    """The coordinator passes on the boxes for one site, and with them asks for its update."""

    params: Digest
    boxes: Boxes
    """``site`` is from whom."""


@said
class Survivors:
    """The coordinator says whose updates came."""

    params: Digest
    sites: Sites


@said
class Confirmation:
    """A site's signature over who survived, as it was told."""

    params: Digest
    site: Site
    signature: Signature


@said
class Question:
    """The coordinator asks for what takes the masks off, with enough sites' confirmations."""

    params: Digest
    survivors: Sites
    dropped: Sites
    confirmations: Annotated[tuple[Confirmation, ...], Field(max_length=SITES_AT_MOST)]


@said
class Held:
    """One share that a site holds of another's secret."""

    site: Site
    share: Share


Helds = Annotated[tuple[Held, ...], Field(max_length=SITES_AT_MOST)]


@said
class Revealed:
    """A site's shares of the survivors' own seeds, and of the mask keys of those who dropped."""

    params: Digest
    seeds: Helds
    keys: Helds


Request: TypeAlias = Invitation | Roll | Delivery | Survivors | Question
Reply: TypeAlias = Signed | Shares | NDArray[np.uint32] | Confirmation | Revealed
"""A masked update is the bare vector: entries, weight and one, modulo 2 ** 32."""

Sign: TypeAlias = Callable[[bytes], bytes]
"""A site's own signature over bytes, with the key that the roster names."""

Verify: TypeAlias = Callable[[str, bytes, bytes], bool]
"""Whether (site, bytes, signature) is by the key of that site in the roster; unknown sites: no."""


_adapter: Callable[[Any], "TypeAdapter[Any]"] = cache(TypeAdapter)


def encode(value: object) -> bytes:
    """Return the one encoding of a message."""
    return bytes(_adapter(type(value)).dump_json(value))


def decode(kind: type[T], raw: bytes) -> T:
    """Return the message of this *kind*; ExchangeError unless *raw* is exactly its encoding."""
    try:
        value: T = _adapter(kind).validate_json(raw)
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ExchangeError(
            f"what came is no {kind.__name__} of this version: {where}: {first['msg']}"
        ) from None
    if encode(value) != raw:  # a key twice, spaces, another way to write a number
        raise ExchangeError(f"what came is no {kind.__name__} in its one encoding")
    return value


def digest_of(value: object) -> str:
    """Return the SHA-256 of a message, as hexadecimal."""
    return hashlib.sha256(type(value).__name__.encode() + b"\0" + encode(value)).hexdigest()


def digest_of_run(text: str) -> str:
    """Return the SHA-256 of a run's canonical text, as hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_seed(seed: bytes, params: str, site: str) -> str:
    """Return what tells whether shares gave the right seed, and nothing of the seed before."""
    return hashlib.sha256(f"{params} {site}\0".encode() + seed).hexdigest()


def advert_text(body: bytes) -> bytes:
    """Return what a site signs to announce its keys."""
    return b"confrere secagg 1 advert\0" + body


def read_advert(signed: Signed, params: Params, verify: Verify) -> Advert:
    """Return the keys of a site of this round; ExchangeError unless that very site signed them.

    The signature is verified over the bytes, before anything in them is read.
    """
    known = signed.site in params.sites
    if not known or not verify(signed.site, advert_text(signed.body), signed.signature):
        raise ExchangeError(f"the keys of '{signed.site}' are not signed by a site of the round")
    advert = decode(Advert, signed.body)
    if (advert.site, advert.params) != (signed.site, digest_of(params)):
        raise ExchangeError(f"the keys of '{signed.site}' are of another site or another round")
    return advert


def confirmation_text(params: str, roll: str, sharers: Sites, survivors: Sites) -> bytes:
    """Return what a site signs of who took part; the same text at every site that saw the same."""
    return (
        b"confrere secagg 1 survivors\0" + json.dumps([params, roll, sharers, survivors]).encode()
    )
