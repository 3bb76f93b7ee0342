"""One object for patient-level DP-SGD: sampling, clip, noise and their cost cannot be had apart.

A step draws patients, not images (Poisson sampling), takes a few images of each, finds one gradient
a patient (the mean over these images and all their views), clips it once, adds the clipped
gradients up, adds noise once, and divides by the *expected* number of patients. A step that draws
nobody is noise alone, and costs as much. Views are drawn for each patient by a generator of that
patient's own with a secret seed, so nothing of one patient enters another's gradient.

Shapes: N images of the site, P patients.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client.device import arithmetic
from confrere_client.privacy.ghost import ghost, suits
from confrere_client.privacy.gradients import Drawn, Engine, Views, padded, trained, vmapped
from confrere_common.config import Train
from confrere_common.errors import PrivacyError
from confrere_common.method import Augment, Method, imagined_views
from confrere_common.privacy.accounting import Event
from confrere_common.privacy.mechanism import Draw, chosen, noised, secure_bytes
from confrere_common.privacy.settings import Privacy
from confrere_common.privacy.terms import Terms

log = logging.getLogger(__name__)

See = Callable[[NDArray[np.int64], torch.Generator], tuple[Tensor, Sequence[Tensor]]]
"""Positions of one patient's images, and that patient's generator -> stored pixels on the device,
BC[Z]YX, and what the method wants to know of them, a tensor for each."""

Charge = Callable[[Event], None]
"""Enter what a round will cost in the ledger, durably; raise where it is not allowed."""


@dataclass(frozen=True, kw_only=True)
class Private:
    """What one site's round releases under privacy: noised mean gradients, already paid for."""

    model: Method
    augment: Augment
    train: Train
    settings: Privacy
    terms: Terms
    owners_N: NDArray[np.int64]
    """The patient of each image."""

    charge: Charge
    engine: Engine = field(default=vmapped)

    def gradients(self, see: See) -> Iterator[dict[str, Tensor]]:
        """Yield a noised mean gradient for each step of a round.

        Guarantee: the whole round is charged before any image is fetched, and no more than the
        charged steps are taken; a second call charges anew and draws new patients and new noise.
        """
        self.charge(self.terms.event)
        draw = secure_bytes()
        patients = images_of(self.owners_N)
        for _ in range(self.terms.steps):
            yield self.step(patients, see, draw)

    def step(
        self, patients: Sequence[NDArray[np.int64]], see: See, draw: Draw
    ) -> dict[str, Tensor]:
        """Return one noised mean gradient.

        Guarantee: without the noise, a patient who is added or taken away moves it by at most
        clip_norm / expected, whatever the images are; the noise on every entry has a deviation of
        noise * clip_norm / expected.
        """
        present = chosen(len(patients), self.terms.rate, draw)
        sums = self._clipped_sum([patients[int(index)] for index in present], see, draw)
        deviation = self.terms.noise * self.terms.clip_norm
        found = noised(sums, deviation, draw)
        like = trained(self.model)
        return {name: (found[name] / self.terms.expected).to(like[name]) for name in like}

    def _clipped_sum(
        self, present: Sequence[NDArray[np.int64]], see: See, draw: Draw
    ) -> dict[str, Tensor]:
        sums = {
            name: torch.zeros_like(p, dtype=torch.float64)
            for name, p in trained(self.model).items()
        }
        seeds = np.frombuffer(draw(8 * len(present)), np.uint64) >> np.uint64(1)
        # Patients of equally many images side by side: little is padded. The sum knows no order.
        order = sorted(range(len(present)), key=lambda one: len(present[one]))
        for start in range(0, len(order), self.settings.micro_batch):
            some = order[start : start + self.settings.micro_batch]
            views = [self._views(present[one], see, int(seeds[one])) for one in some]
            with arithmetic(self.train, views[0][0].device):
                part = self.engine(self.model, padded(views), self.terms.clip_norm)
            for name, summed in part.items():
                sums[name] += summed
        return sums

    def _views(self, positions: NDArray[np.int64], see: See, seed: int) -> Views:
        """Return the views of a patient's images, at most so many as the run allows."""
        own = torch.Generator().manual_seed(seed)
        most = self.settings.max_images_per_patient
        picked = torch.randperm(len(positions), generator=own)[:most].sort().values
        some = positions[picked.numpy()]
        stored, known = see(some, own)
        return self.model.informed_views(stored, known, self.augment, own)


def images_of(owners_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the positions of each patient's images, patients in ascending order."""
    order = np.argsort(owners_N, kind="stable")
    _, starts = np.unique(owners_N[order], return_index=True)
    return [np.asarray(part, np.int64) for part in np.split(order, starts[1:])]


def choose_engine(model: Method, settings: Privacy, augment: Augment) -> Engine:
    """Return the engine that a run asks for; PrivacyError when the network does not allow it.

    The faster one is taken only where it equals the reference on noise (``ghost.suits``).
    """
    if settings.engine == "vmap":
        return vmapped
    if suits(model, _noise(model, augment)):
        return ghost
    if settings.engine == "ghost":
        raise PrivacyError(
            "privacy.engine 'ghost' does not give this network the gradients of the reference. "
            "Choose auto or vmap."
        )
    log.info("private steps use the reference engine: this network does not allow the faster one")
    return vmapped


def _noise(model: Method, augment: Augment) -> Drawn:
    """Return views of noise, of patients with one, two and three images."""
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    shape = (3, model.encoder.channels, *model.encoder.size)
    patients = []
    for count in (1, 2, 3):
        stored = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        patients.append(imagined_views(model, stored[:count].to(device), augment, generator))
    return padded(patients)
