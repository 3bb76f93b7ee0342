"""What a site and the server say to each other when a site joins or renews its certificate."""

import base64
import binascii
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from confrere_common.address import AddressText
from confrere_common.errors import ExchangeError
from confrere_common.pki.certificate import SiteName
from confrere_common.section import section

T = TypeVar("T")

Pem = Annotated[str, Field(min_length=1, max_length=32_768)]
Study = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""As a proposal names it, and safe as a folder; 64 is what a certificate's fields hold."""


@section
class Invitation:
    """A one-time token, taken apart: all that a site needs to find and know the server."""

    study: Study
    site: SiteName
    address: AddressText
    root: Pem
    """The study's root certificate, to which the site pins the server."""

    chain: Pem
    """The invitation's certificate and the one that issued it."""

    key: Pem
    """The invitation's private key: good for one enrolment, and nothing else."""


@section
class Request:
    """What a site asks for: a certificate, and to be known by these keys."""

    csr: Pem
    node_key: Pem
    """The public key by which Flower knows the site's node."""

    audit_key: Pem
    """The public key that signs the site's audit log."""


@section
class Renewal:
    """What a site with a certificate asks for: the next one."""

    csr: Pem


@section
class Grant:
    """What the server answers to both."""

    study: Study
    chain: Pem
    """The site's certificate and the one that issued it."""

    root: Pem
    """The study's roots: two of them while one is rolled over."""

    roster: str
    """Hash of the roster in which the site now stands."""

    server_key: Pem
    """The public key that signs the server's audit log, roster and releases."""


def encode(message: object) -> bytes:
    """Return a message as JSON."""
    return TypeAdapter(type(message)).dump_json(message)


def decode(cls: type[T], body: bytes) -> T:
    """Return the message *cls* that *body* holds; ExchangeError says where it is not one."""
    try:
        return TypeAdapter(cls).validate_json(body)
    except ValidationError as fault:
        # Only places and rules are said: the values may be keys.
        said = "; ".join(
            f"{'.'.join(map(str, error['loc'])) or 'the whole'}: {error['msg']}"
            for error in fault.errors(include_input=False, include_url=False)[:5]
        )
        raise ExchangeError(f"not a valid {cls.__name__.lower()}: {said}.") from None


def token_of(invitation: Invitation) -> str:
    """Return an invitation as the one line of text that is given to the hospital."""
    return base64.urlsafe_b64encode(encode(invitation)).decode().rstrip("=")


def invitation_in(token: str) -> Invitation:
    """Return what a token holds; ExchangeError if it is damaged."""
    bare = "".join(token.split())
    try:
        body = base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ExchangeError("not a token: ask for it again, or copy it whole.") from None
    return decode(Invitation, body)
