"""What the running server looks after: its certificate, its roots, and how it says it is."""

import logging
from pathlib import Path

import pytest
from loopback import make_workspace, tls_of
from served import make_study, served, until

from confrere_server import start
from confrere_server.membership.rollover import begin, switch
from confrere_server.start import Shown
from confrere_server.watch.health import is_healthy


def test_certificate_and_roots_are_read_again_whoever_changed_them(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "study")
    tls = tls_of(workspace)
    shown = Shown(workspace=workspace, tls=tls)
    roots = len(tls.get_ca_certs())
    unchanged = shown.look()

    begin(workspace)
    begun, more = shown.look(), len(tls.get_ca_certs())
    switch(workspace)

    assert not unchanged
    assert begun
    assert more > roots
    assert shown.look()
    assert not shown.look()


def test_a_renewal_that_fails_stops_no_look_at_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = make_study(tmp_path / "study")
    monkeypatch.setattr(start, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(start, "RENEW_EVERY_S", 0.0)
    (workspace.ca / "issuing.key").unlink()

    with caplog.at_level(logging.ERROR), served(workspace) as server:
        until(lambda: "could not be renewed" in caplog.text)
        well = until(lambda: is_healthy(workspace.folder))
        server.halt.set()  # the thread that conducts ends; the port still listens

        assert well
        assert until(lambda: not is_healthy(workspace.folder))
