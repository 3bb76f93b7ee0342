"""A masked round without a network: sites as objects that a plain function carries messages to."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from torch import Tensor

from confrere_client.masked.mask_state import Floor, Member
from confrere_client.masked.masked_round import NotesInMemory, Seat, reply
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Refusal, Task, Update
from confrere_common.secagg.messages import (
    Delivery,
    Invitation,
    Params,
    Question,
    Reply,
    Request,
    Roll,
    Survivors,
    decode,
    digest_of_run,
    encode,
)
from confrere_common.secagg.section import bits_within, least_threshold
from confrere_common.weights import count, weights_digest
from confrere_server.unmask import Carry, Sum, Talk, start_talk, sum_of

ROSTER = "ab" * 32
STAGES = (Invitation, Roll, Delivery, Survivors, Question)

Keys = Mapping[str, Ed25519PrivateKey]


def names(count: int) -> list[str]:
    return [f"site-{number:02d}" for number in range(count)]


def weights(entries: int = 12, seed: int = 0, std: float = 0.002) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    flat = std * torch.randn(entries, generator=generator)
    return {"w": flat[: entries - 1].reshape(1, -1), "a": flat[-1].reshape(())}


def keys_of(sites: Iterable[str]) -> dict[str, Ed25519PrivateKey]:
    return {site: Ed25519PrivateKey.generate() for site in sites}


def verifier(keys: Keys) -> Callable[[str, bytes, bytes], bool]:
    public: dict[str, Ed25519PublicKey] = {site: key.public_key() for site, key in keys.items()}

    def verify(site: str, text: bytes, signature: bytes) -> bool:
        try:
            public[site].verify(signature, text)
        except (KeyError, InvalidSignature):
            return False
        return True

    return verify


def member_of(keys: Keys, site: str) -> Member:
    return Member(site=site, roster=ROSTER, sign=keys[site].sign, verify=verifier(keys))


def params_of(sites: Iterable[str], template: Mapping[str, Tensor], /, **changes: Any) -> Params:
    listed = changes.pop("sites", tuple(sorted(sites)))
    plain: dict[str, Any] = {
        "run": digest_of_run("{}"),
        "seed": 0,
        "round": 1,
        "attempt": 1,
        "roster": ROSTER,
        "weights": weights_digest(template),
        "sites": listed,
        "threshold": least_threshold(len(listed)),
        "entries": count(template),
        "bits": bits_within(26, len(listed)),
        "clip": 0.05,
        "weight_max": 500,
    }
    return Params(**{**plain, **changes})


@dataclass
class Hospital:
    """A site that keeps to the protocol; every message goes over bytes, as on a wire."""

    member: Member
    delta: Mapping[str, Tensor]
    images: int = 100
    floor: Floor = field(default_factory=Floor)
    notes: NotesInMemory = field(default_factory=NotesInMemory)

    def reply(self, request: Request, task: Task | None = None) -> Reply | Refusal:
        seat = Seat(member=self.member, floor=self.floor, notes=self.notes)
        try:
            return reply(decode(type(request), encode(request)), task, seat, self.train)
        except ExchangeError as fault:
            return Refusal(site=self.member.site, round=1, reason=str(fault))

    def train(self, task: Task) -> Update:
        return Update(site=self.member.site, round=task.round, delta=self.delta, images=self.images)


@dataclass
class Ward:
    """All hospitals of a round, and who falls silent when."""

    hospitals: dict[str, Hospital]
    verify: Callable[[str, bytes, bytes], bool]
    silent: Mapping[type, frozenset[str]] = field(default_factory=dict)
    """Kind of request -> sites that do not answer it, nor any later one."""

    change: Callable[[str, Request], Request] = lambda site, request: request  # noqa: ARG005
    """What a malicious coordinator makes of a request before it reaches a site."""

    seen: list[tuple[str, Request, Any]] = field(default_factory=list)

    def carry(
        self, requests: Mapping[str, Request], task: Task | None
    ) -> Iterator[tuple[str, Reply | Refusal]]:
        for site, request in requests.items():
            if self._gone(site, type(request)):
                continue
            changed = self.change(site, request)
            reply = self.hospitals[site].reply(changed, task)
            self.seen.append((site, changed, reply))
            yield site, reply

    def _gone(self, site: str, kind: type) -> bool:
        stages = STAGES[: STAGES.index(kind) + 1]
        return any(site in self.silent.get(stage, ()) for stage in stages)


def ward_of(
    size: int, entries: int = 12, *, images: Callable[[int], int] = lambda number: 100 + number
) -> Ward:
    keys = keys_of(names(size))
    hospitals = {
        site: Hospital(
            member=member_of(keys, site),
            delta=weights(entries, seed=number + 1),
            images=images(number),
        )
        for number, site in enumerate(keys)
    }
    return Ward(hospitals, verifier(keys))


def template_of(ward: Ward) -> dict[str, Tensor]:
    return weights(sum(t.numel() for t in next(iter(ward.hospitals.values())).delta.values()))


def talk_of(ward: Ward, **changes: Any) -> Talk:
    params = params_of(ward.hospitals, template_of(ward), **changes)
    carry: Carry = ward.carry
    return start_talk(params, carry, ward.verify)


def task_of(ward: Ward, round: int = 1) -> Task:
    return Task(run="{}", round=round, seed=0, weights=template_of(ward))


def summed(ward: Ward, **changes: Any) -> Sum:
    return sum_of(talk_of(ward, **changes), task_of(ward, changes.get("round", 1)))


def mean_of(ward: Ward, sites: Iterable[str]) -> dict[str, Tensor]:
    """Return the plain weighted mean in float64."""
    chosen = [ward.hospitals[site] for site in sites]
    images = sum(one.images for one in chosen)
    return {
        name: sum(one.images * one.delta[name].double() for one in chosen) / images
        for name in chosen[0].delta
    }


def error_of(found: Mapping[str, Tensor], due: Mapping[str, Tensor]) -> float:
    """Return the root mean square error relative to that of what is due."""
    miss = sum(float((found[n].double() - due[n]).square().sum()) for n in due)
    return (miss / sum(float(due[n].square().sum()) for n in due)) ** 0.5
