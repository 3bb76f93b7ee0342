"""Who takes part.

``roster.Roster.admits``: "Guarantee: nobody who was revoked, replaced or has used an invitation is
admitted." ``roster.enrol``: "Guarantee: an invitation enrols the one site that it names, once; a
second use, even at the same moment, gets ExchangeError, and so does one that expired, was replaced
or revoked."
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from confrere_common.chain import verify
from confrere_common.enrolment import Grant, Renewal, Request, decode, encode, invitation_in
from confrere_common.errors import CheckpointError, ConfigError, ExchangeError
from confrere_common.pki.certificate import Peer, certificates_in, peer_of, request_for
from confrere_common.pki.keys import TlsKey, new_key, public_pem
from confrere_server.membership.roster import Site, enrol, invite, read_roster, renew, revoke, saw
from confrere_server.membership.workspace import Workspace, init

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY = new_key()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init(tmp_path / "study", "eyes", "fl.example.org:8443", now=NOW)


def first_in(chain: str) -> Peer:
    return peer_of(certificates_in(chain.encode())[0].public_bytes(Encoding.DER))


def bearer_of(token: str) -> Peer:
    return first_in(invitation_in(token).chain)


def asking(site: str, key: TlsKey = KEY, node: TlsKey | None = None) -> bytes:
    request = Request(
        csr=request_for(site, key).decode(),
        node_key=public_pem((node or new_key()).public_key()).decode(),
        audit_key=public_pem(Ed25519PrivateKey.generate().public_key()).decode(),
    )
    return encode(request)


def enrolled(workspace: Workspace, site: str, *, again: bool = False) -> Peer:
    peer = bearer_of(invite(workspace, site, again=again, now=NOW))
    answer = enrol(workspace, peer, asking(site), now=NOW)
    return first_in(decode(Grant, answer).chain)


def renewed(workspace: Workspace, peer: Peer, now: datetime) -> Peer:
    body = encode(Renewal(csr=request_for(peer.name, KEY).decode()))
    return first_in(decode(Grant, renew(workspace, peer, body, now=now)).chain)


def events(workspace: Workspace) -> list[str]:
    assert not verify(workspace.audit, workspace.signing_key().public_key()).faults
    return [json.loads(line)["event"] for line in workspace.audit.read_text().splitlines()]


def test_an_invited_site_enrols_and_is_admitted(workspace: Workspace) -> None:
    token = invite(workspace, "north", now=NOW)
    peer, body = bearer_of(token), asking("north", node=KEY)
    assert read_roster(workspace).admits(peer, NOW)
    assert read_roster(workspace).sites["north"].state == "invited"

    grant = decode(Grant, enrol(workspace, peer, body, now=NOW + HOUR))

    roster, site = read_roster(workspace), first_in(grant.chain)
    assert roster.sites["north"].state == "active"
    assert roster.sites["north"].node_key == public_pem(KEY.public_key())
    assert b"PUBLIC KEY" in roster.sites["north"].audit_key
    assert roster.admits(site, NOW)
    assert not roster.admits(peer, NOW)
    assert (grant.study, grant.roster) == ("eyes", roster.hash)
    assert grant.root == workspace.root.read_text()
    assert grant.server_key == (workspace.keys / "signing.pub").read_text()
    assert events(workspace)[1:] == ["site invited", "site enrolled"]


def test_a_token_knows_the_study_and_nothing_secret_of_it(workspace: Workspace) -> None:
    invitation = invitation_in(invite(workspace, "north", now=NOW))

    assert (invitation.study, invitation.site) == ("eyes", "north")
    assert invitation.address == "fl.example.org:8443"
    for secret in workspace.folder.rglob("*.key"):
        assert secret.read_text().splitlines()[1] not in invitation.key


def test_a_token_is_used_once(workspace: Workspace) -> None:
    peer = bearer_of(invite(workspace, "north", now=NOW))
    enrol(workspace, peer, asking("north"), now=NOW)
    before = read_roster(workspace)

    with pytest.raises(ExchangeError, match="was used"):
        enrol(workspace, peer, asking("north"), now=NOW)

    assert read_roster(workspace) == before
    assert events(workspace)[-1] == "enrolment refused"


def test_a_token_is_used_once_even_at_the_same_moment(workspace: Workspace) -> None:
    peer = bearer_of(invite(workspace, "north", now=NOW))
    bodies = [asking("north") for _ in range(6)]

    def attempt(body: bytes) -> bool:
        try:
            return bool(enrol(workspace, peer, body, now=NOW))
        except ExchangeError:
            return False

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(attempt, bodies))

    assert sum(done) == 1
    assert len(read_roster(workspace).sites["north"].serials) == 1
    assert sorted(events(workspace))[:5] == ["enrolment refused"] * 5


def test_a_token_expires(workspace: Workspace) -> None:
    peer = bearer_of(invite(workspace, "north", hours=2, now=NOW))

    assert read_roster(workspace).admits(peer, NOW + 1.9 * HOUR)
    assert not read_roster(workspace).admits(peer, NOW + 2 * HOUR)
    with pytest.raises(ExchangeError, match="expired"):
        enrol(workspace, peer, asking("north"), now=NOW + 2 * HOUR)


def test_a_token_of_another_study_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    other = init(tmp_path / "other", "hearts", "h:1", now=NOW)
    invite(workspace, "north", now=NOW)
    peer = bearer_of(invite(other, "north", now=NOW))

    with pytest.raises(ExchangeError):
        enrol(workspace, peer, asking("north"), now=NOW)

    assert read_roster(workspace).sites["north"].state == "invited"


def test_a_new_token_makes_the_one_before_void(workspace: Workspace) -> None:
    first = bearer_of(invite(workspace, "north", now=NOW))
    second = bearer_of(invite(workspace, "north", now=NOW))

    assert not read_roster(workspace).admits(first, NOW)
    assert read_roster(workspace).admits(second, NOW)


def test_a_request_with_a_fault_leaves_the_token_unused(workspace: Workspace) -> None:
    peer = bearer_of(invite(workspace, "north", now=NOW))

    for body in (asking("south"), b"{}", asking("north").replace(b"PUBLIC", b"PUBLIK")):
        with pytest.raises(ExchangeError):
            enrol(workspace, peer, body, now=NOW)

    assert enrol(workspace, peer, asking("north"), now=NOW)


def test_a_token_enrols_no_other_site(workspace: Workspace) -> None:
    peer = bearer_of(invite(workspace, "north", now=NOW))
    invite(workspace, "south", now=NOW)

    with pytest.raises(ExchangeError):
        enrol(workspace, replace(peer, name="south"), asking("south"), now=NOW)


def test_a_site_s_certificate_is_no_invitation_nor_the_other_way(workspace: Workspace) -> None:
    site = enrolled(workspace, "north")
    invited = bearer_of(invite(workspace, "south", now=NOW))

    with pytest.raises(ExchangeError):
        enrol(workspace, site, asking("north"), now=NOW)
    with pytest.raises(ExchangeError):
        renewed(workspace, invited, NOW)


def test_a_site_cannot_take_the_keys_of_another(workspace: Workspace) -> None:
    first = bearer_of(invite(workspace, "north", now=NOW))
    second = bearer_of(invite(workspace, "south", now=NOW))
    enrol(workspace, first, asking("north", node=KEY), now=NOW)

    with pytest.raises(ExchangeError, match="another site"):
        enrol(workspace, second, asking("south", node=KEY), now=NOW)


def test_a_site_that_enrolled_is_invited_again_only_when_it_is_said(workspace: Workspace) -> None:
    old = enrolled(workspace, "north")

    with pytest.raises(ConfigError, match="--again"):
        invite(workspace, "north", now=NOW)
    again = bearer_of(invite(workspace, "north", again=True, now=NOW))
    assert read_roster(workspace).admits(old, NOW)
    new = first_in(decode(Grant, enrol(workspace, again, asking("north"), now=NOW)).chain)

    assert read_roster(workspace).admits(new, NOW)
    assert not read_roster(workspace).admits(old, NOW)


def test_a_revoked_site_is_admitted_no_more_and_no_other_is_touched(workspace: Workspace) -> None:
    north, south = enrolled(workspace, "north"), enrolled(workspace, "south")
    again = bearer_of(invite(workspace, "north", again=True, now=NOW))
    before = read_roster(workspace).sites["south"]

    revoke(workspace, "north", "contract ended", now=NOW)

    roster = read_roster(workspace)
    assert not roster.admits(north, NOW)
    assert not roster.admits(again, NOW)
    assert roster.admits(south, NOW)
    assert roster.sites["south"] == before
    assert (roster.sites["north"].state, roster.sites["north"].why) == ("revoked", "contract ended")
    with pytest.raises(ExchangeError):
        renewed(workspace, north, NOW)
    with pytest.raises(ConfigError, match="--again"):
        invite(workspace, "north", now=NOW)


def test_a_revoked_site_may_be_invited_anew(workspace: Workspace) -> None:
    old = enrolled(workspace, "north")
    revoke(workspace, "north", "machine lost", now=NOW)

    new = enrolled(workspace, "north", again=True)

    assert read_roster(workspace).admits(new, NOW)
    assert not read_roster(workspace).admits(old, NOW)


def test_only_an_active_site_is_admitted_whatever_certificates_it_still_has() -> None:
    peer = Peer("site", "north", "a1", "")
    site = Site(state="revoked", since="", serials={"a1": None})

    assert not site.counts(peer, NOW)
    assert replace(site, state="active").counts(peer, NOW)


def test_an_unknown_site_is_not_revoked(workspace: Workspace) -> None:
    enrolled(workspace, "north")

    with pytest.raises(ConfigError, match="did you mean 'north'"):
        revoke(workspace, "norht", "slip")


def test_the_old_certificate_counts_until_the_new_one_is_seen(workspace: Workspace) -> None:
    old = enrolled(workspace, "north")

    new = renewed(workspace, old, NOW)
    saw(workspace, old)
    both = read_roster(workspace)
    saw(workspace, new)
    saw(workspace, new)

    assert both.admits(old, NOW)
    assert both.admits(new, NOW)
    assert not read_roster(workspace).admits(old, NOW)
    assert read_roster(workspace).admits(new, NOW + 999 * HOUR)
    assert events(workspace)[-2:] == ["site renewed", "renewed certificate seen"]


def test_the_old_certificate_counts_for_a_day_at_most(workspace: Workspace) -> None:
    old = enrolled(workspace, "north")

    renewed(workspace, old, NOW)

    assert read_roster(workspace).admits(old, NOW + 23.9 * HOUR)
    assert not read_roster(workspace).admits(old, NOW + 24 * HOUR)


def test_a_renewal_whose_answer_was_lost_is_asked_for_again(workspace: Workspace) -> None:
    old = enrolled(workspace, "north")
    lost = renewed(workspace, old, NOW)

    new = renewed(workspace, old, NOW + HOUR)

    roster = read_roster(workspace)
    assert roster.admits(new, NOW + HOUR)
    assert roster.admits(old, NOW + HOUR)
    assert not roster.admits(lost, NOW + HOUR)


def test_a_site_that_renews_over_and_over_writes_nothing(workspace: Workspace) -> None:
    old = enrolled(workspace, "north")
    new = renewed(workspace, old, NOW)
    before = workspace.audit.read_bytes(), workspace.roster.read_bytes()

    for peer in (old, new):
        with pytest.raises(ExchangeError, match="given a certificate at"):
            renewed(workspace, peer, NOW + 0.9 * HOUR)

    assert (workspace.audit.read_bytes(), workspace.roster.read_bytes()) == before
    assert renewed(workspace, new, NOW + HOUR).serial != new.serial


def test_a_renewal_for_another_site_is_refused(workspace: Workspace) -> None:
    north = enrolled(workspace, "north")
    body = encode(Renewal(csr=request_for("south", KEY).decode()))

    with pytest.raises(ExchangeError):
        renew(workspace, north, body, now=NOW)

    assert events(workspace)[-1] == "renewal refused"


def test_a_peer_that_nobody_invited_is_not_admitted(workspace: Workspace) -> None:
    north = enrolled(workspace, "north")
    roster = read_roster(workspace)

    assert not roster.admits(replace(north, name="south"), NOW)
    assert not roster.admits(replace(north, serial="1"), NOW)
    assert not roster.admits(replace(north, kind="invite"), NOW)


def test_a_roster_edited_by_hand_is_refused(workspace: Workspace) -> None:
    enrolled(workspace, "north")
    revoke(workspace, "north", "gone", now=NOW)
    text = workspace.roster.read_text()
    workspace.roster.write_text(text.replace('"revoked"', '"active"'))

    with pytest.raises(CheckpointError, match="not as the server wrote it"):
        read_roster(workspace)
    with pytest.raises(CheckpointError):
        invite(workspace, "south", now=NOW)


def test_a_roster_that_is_gone_is_not_taken_for_an_empty_one(workspace: Workspace) -> None:
    workspace.roster.unlink()

    with pytest.raises(CheckpointError, match="cannot be read"):
        read_roster(workspace)


@pytest.mark.parametrize("name", ["", "North", "a b", "../x", "-a", "a" * 64])
def test_a_site_with_an_odd_name_is_not_invited(workspace: Workspace, name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a site"):
        invite(workspace, name, now=NOW)


@pytest.mark.parametrize("hours", [0, -1, 2161, float("nan")])
def test_a_token_lasts_some_hours(workspace: Workspace, hours: float) -> None:
    with pytest.raises(ConfigError, match="hours"):
        invite(workspace, "north", hours, now=NOW)


def test_every_change_is_audited_with_the_hash_of_the_roster(workspace: Workspace) -> None:
    enrolled(workspace, "north")
    revoke(workspace, "north", "gone", now=NOW)

    last = json.loads(workspace.audit.read_text().splitlines()[-1])

    assert last["event"] == "site revoked"
    assert last["facts"] == {
        "site": "north",
        "why": "gone",
        "roster": read_roster(workspace).hash,
    }
