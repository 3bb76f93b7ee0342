"""The root is replaced by the next one, and no site notices."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from loopback import Refused, handshake, make_workspace, tls_of

from confrere_common.enrolment import Grant, Renewal, Request, decode, encode, invitation_in
from confrere_common.errors import ConfigError
from confrere_common.pki.certificate import (
    Peer,
    certificates_in,
    peer_of,
    request_for,
    vouched_roots,
)
from confrere_common.pki.keys import new_key, private_pem, public_pem
from confrere_common.pki.tls import client_context
from confrere_server.membership.authority import read_issuer
from confrere_server.membership.rollover import begin, finish, switch
from confrere_server.membership.roster import enrol, invite, read_roster, renew, revoke
from confrere_server.membership.workspace import Workspace

KEY = new_key()


class Hospital:
    """A site as far as certificates go: what it was granted, as files."""

    def __init__(self, workspace: Workspace, name: str, folder: Path) -> None:
        self.workspace, self.name, self.folder = workspace, name, folder
        folder.mkdir()
        (folder / "key").write_bytes(private_pem(KEY))
        invitation = invitation_in(invite(workspace, name))
        (folder / "root").write_text(invitation.root)
        request = Request(
            csr=request_for(name, KEY).decode(),
            node_key=public_pem(new_key().public_key()).decode(),
            audit_key=(workspace.keys / "signing.pub").read_text(),
        )
        self._keep(enrol(workspace, self.named(invitation.chain), encode(request)))

    def renew(self) -> None:
        body = encode(Renewal(csr=request_for(self.name, KEY).decode()))
        self._keep(renew(self.workspace, self.named((self.folder / "chain").read_text()), body))

    def meets(self) -> bool:
        """Say whether the server and this site accept each other."""
        context = client_context(
            *(self.folder / name for name in ("chain", "key", "root")),
        )
        found = handshake(tls_of(self.workspace), context)
        return not isinstance(found, Refused) and read_roster(self.workspace).admits(
            peer_of(found[1])
        )

    def named(self, chain: str) -> Peer:
        return peer_of(certificates_in(chain.encode())[0].public_bytes(Encoding.DER))

    def _keep(self, answer: bytes) -> None:
        grant, root = decode(Grant, answer), self.folder / "root"
        root.write_bytes(vouched_roots(grant.root.encode(), root.read_bytes()))
        (self.folder / "chain").write_text(grant.chain)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "study")


def test_a_site_meets_the_server_at_every_step_of_a_rollover(
    workspace: Workspace, tmp_path: Path
) -> None:
    old = workspace.root.read_bytes()
    site = Hospital(workspace, "north", tmp_path / "north")

    begin(workspace)
    assert site.meets()
    site.renew()
    assert site.meets()
    switch(workspace)
    assert site.meets()
    site.renew()
    assert site.meets()
    finish(workspace)
    assert site.meets()
    site.renew()
    assert site.meets()

    assert len(certificates_in(workspace.root.read_bytes())) == 1
    assert (tmp_path / "north" / "root").read_bytes() == workspace.root.read_bytes() != old
    assert not (workspace.ca / "next").exists()
    read_issuer(workspace.root, workspace.ca / "root.key")


def test_a_site_that_joins_in_between_knows_both(workspace: Workspace, tmp_path: Path) -> None:
    begin(workspace)
    site = Hospital(workspace, "north", tmp_path / "north")

    switch(workspace)

    assert site.meets()


def test_no_step_is_taken_before_every_site_is_ready(workspace: Workspace, tmp_path: Path) -> None:
    site = Hospital(workspace, "north", tmp_path / "north")
    begin(workspace)

    with pytest.raises(ConfigError, match="waits for north"):
        switch(workspace)
    site.renew()
    switch(workspace)
    with pytest.raises(ConfigError, match="waits for north"):
        finish(workspace)

    assert site.meets()


def test_a_revoked_site_is_not_waited_for(workspace: Workspace, tmp_path: Path) -> None:
    site = Hospital(workspace, "north", tmp_path / "north")
    revoke(workspace, "north", "gone")

    begin(workspace)
    switch(workspace)
    finish(workspace)

    assert not site.meets()


def test_steps_are_taken_in_order(workspace: Workspace) -> None:
    for step in (switch, finish):
        with pytest.raises(ConfigError, match="has not begun"):
            step(workspace)
    begin(workspace)
    with pytest.raises(ConfigError, match="under way"):
        begin(workspace)


def test_a_beginning_cut_short_is_taken_up_with_the_same_root(workspace: Workspace) -> None:
    before = workspace.root.read_bytes()
    begin(workspace, now=datetime.now(UTC))
    made = (workspace.ca / "next" / "root.crt").read_bytes()
    workspace.root.write_bytes(before)

    begin(workspace)

    assert (workspace.ca / "next" / "root.crt").read_bytes() == made
    assert workspace.root.read_bytes().startswith(made)


def test_a_finish_cut_short_at_its_end_leaves_nothing_to_the_next_rollover(
    workspace: Workspace,
) -> None:
    begin(workspace)
    switch(workspace)
    left = {path.name: path.read_bytes() for path in (workspace.ca / "next").iterdir()}
    finish(workspace)
    present = workspace.root.read_bytes()
    (workspace.ca / "next").mkdir()
    for name, content in left.items():
        (workspace.ca / "next" / name).write_bytes(content)

    begin(workspace)

    assert (workspace.ca / "next" / "root.crt").read_bytes() != present


def test_a_switch_cut_short_is_told_and_mended_by_another(workspace: Workspace) -> None:
    begin(workspace)
    issuing_key = workspace.ca / "issuing.key"
    issuing_key.write_bytes((workspace.ca / "next" / "issuing.key").read_bytes())
    with pytest.raises(ConfigError, match="cut short"):
        workspace.issuer()

    switch(workspace)

    assert workspace.issuer().certificate.subject
