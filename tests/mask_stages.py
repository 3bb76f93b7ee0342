"""A masked round of five hospitals at some stage, for a coordinator that changes what it says."""

from dataclasses import dataclass, replace
from typing import Any

from masked_rounds import Hospital, Ward, params_of, task_of, template_of, ward_of

from confrere_common.exchange import Refusal, Task
from confrere_common.secagg.messages import (
    Confirmation,
    Delivery,
    Invitation,
    Params,
    Question,
    Request,
    Roll,
    Shares,
    Signed,
    Survivors,
    confirmation_text,
    digest_of,
)

SITES = tuple(f"site-{number:02d}" for number in range(5))
VICTIM, OTHER = SITES[1], SITES[3]


@dataclass
class Stage:
    """Five hospitals, and what a coordinator has of them so far."""

    ward: Ward
    params: Params
    adverts: dict[str, Signed]
    shares: dict[str, Shares]
    vectors: dict[str, Any]

    @property
    def digest(self) -> str:
        return digest_of(self.params)

    @property
    def victim(self) -> Hospital:
        return self.ward.hospitals[VICTIM]

    def roll(self, **changes: Signed) -> Roll:
        adverts = {**self.adverts, **changes}
        return Roll(params=self.digest, adverts=tuple(adverts.values()))

    def boxes(self, of: str) -> dict[str, Any]:
        found = {}
        for source, one in self.shares.items():
            for box in one.boxes:
                if box.site == of:
                    found[source] = replace(box, site=source)
        return found

    def delivery(self, of: str, **changes: Any) -> Delivery:
        boxes = {**self.boxes(of), **changes}
        return Delivery(params=self.digest, boxes=tuple(boxes.values()))

    def survivors(self, *sites: str) -> Survivors:
        return Survivors(params=self.digest, sites=sites or SITES)

    def confirmation(self, site: str, survivors: tuple[str, ...]) -> Confirmation:
        """Let a site that colludes sign anything."""
        text = confirmation_text(self.digest, digest_of(self.roll()), SITES, survivors)
        signature = self.ward.hospitals[site].member.sign(text)
        return Confirmation(params=self.digest, site=site, signature=signature)

    def question(self, told: tuple[str, ...], signers: tuple[str, ...], **changes: Any) -> Question:
        plain = {
            "params": self.digest,
            "survivors": told,
            "dropped": tuple(sorted(set(SITES) - set(told))),
            "confirmations": tuple(self.confirmation(site, told) for site in signers),
        }
        return Question(**{**plain, **changes})


def taken(reply: Any) -> Any:
    assert not isinstance(reply, Refusal), reply
    return reply


def staged(until: type, **changes: Any) -> Stage:
    """Return the round just before requests of kind *until* are sent."""
    ward = ward_of(5)
    params = params_of(SITES, template_of(ward), **changes)
    stage = Stage(ward, params, {}, {}, {})
    hospitals, task = ward.hospitals, task_of(ward, params.round)
    if until is Invitation:
        return stage
    invitation = Invitation(params=params)
    stage.adverts = {site: taken(one.reply(invitation)) for site, one in hospitals.items()}
    if until is Roll:
        return stage
    stage.shares = {site: taken(one.reply(stage.roll())) for site, one in hospitals.items()}
    if until is Delivery:
        return stage
    stage.vectors = {
        site: taken(one.reply(stage.delivery(site), task)) for site, one in hospitals.items()
    }
    if until is Question:
        for one in hospitals.values():
            taken(one.reply(stage.survivors()))
    return stage


def refused(stage: Stage, request: Request, due: str, task: Task | None = None) -> None:
    """Say that the victim refuses, keeps no secret, and takes nothing of the round after."""
    victim = stage.victim

    reply = victim.reply(request, task)

    assert isinstance(reply, Refusal), reply
    assert due in reply.reason, reply.reason
    assert victim.notes.load().state is None
    for later in (stage.survivors(), stage.question(SITES, SITES)):
        after = victim.reply(later)
        assert isinstance(after, Refusal)
        assert "out of turn" in after.reason, after.reason
