"""A data set that the hospital registered under a name: what a federated run may ask for."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from confrere_client.hospital.registry import NAME, chosen, open_registered, registered
from confrere_client.source import Record, Source
from confrere_common.section import section


class Site(Source):
    """Looks the name up in the hospital's ``data.yaml``: a run from outside brings no path."""

    @section
    class Config:
        """Which of the data sets that the hospital registered."""

        dataset: Annotated[str, Field(pattern=NAME)] | None = None
        """Name of a registered data set; may be left out where the hospital has a single one."""

    def records(self) -> Sequence[Record]:
        """List the images that may be trained on; DataError when there is no such data set."""
        return self._source.records()

    @property
    def preparation(self) -> Mapping[str, Any] | None:
        """Return how the registered images were prepared."""
        return self._source.preparation

    def fingerprint(self) -> Iterator[bytes]:
        """Yield what changes with the images that may be trained on."""
        yield from self._source.fingerprint()

    @cached_property
    def _source(self) -> Source:
        known = registered(self.folder)
        return open_registered(known[chosen(self.config.dataset, known)])
