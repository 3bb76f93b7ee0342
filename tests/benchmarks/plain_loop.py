"""A federated round as one would write it on a napkin: what ``simulate.py`` compares with."""

import numpy as np
import torch

from confrere_client.measure import health
from confrere_common.augment.pipeline import augmentation, normalise
from confrere_common.method import Method
from confrere_common.model import build_model, input_of, shared_weights
from confrere_common.weights import Weights
from confrere_deploy.engine import Job


class Plain:
    """A federated round as one would write it on a napkin."""

    def __init__(self, job: Job) -> None:
        self.job, self.train = job, job.run.train
        self.model: Method = build_model(job.run, seed=0)
        channels, size = input_of(job.run)
        self.augment = augmentation(job.run.augment, channels=channels, size=size)
        self.weights: Weights = shared_weights(self.model)
        self.own = {n: t for n, t in self.model.state_dict().items() if self.model.is_shared(n)}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, betas=self.train.betas, fused=True
        )
        self.generator = torch.Generator().manual_seed(0)
        self.memory = torch.from_numpy(np.array(job.images.pixels))

    def round(self, *, measured: bool) -> None:
        joined = {name: torch.zeros_like(tensor) for name, tensor in self.weights.items()}
        for rows in self.job.sites.values():
            images = self.memory[rows[0] : rows[-1] + 1]
            with torch.no_grad():
                for name, tensor in self.weights.items():
                    self.own[name].copy_(tensor)
            self.optimizer.state.clear()
            self.model.train()
            for _ in range(self.train.steps_per_round or 1):
                self.step(images)
            if measured:
                self.measure(images)
            for name, tensor in self.weights.items():
                joined[name].add_(self.own[name] - tensor, alpha=1 / len(self.job.sites))
        self.weights = {name: tensor + joined[name] for name, tensor in self.weights.items()}

    def step(self, images: torch.Tensor) -> None:
        rows = torch.randperm(len(images), generator=self.generator)[: self.train.batch]
        views = self.model.views(images[rows], self.augment, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        self.model.losses(*views).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    @torch.no_grad()
    def measure(self, images: torch.Tensor) -> None:
        self.model.eval()
        pairs = self.augment(torch.cat([images[:64]] * 2), self.generator)
        if len(images) <= 64:  # at once, as a site does: else the napkin would be the slower
            together = self.model.encoder(torch.cat([normalise(images), pairs]))
            still, one, two = together.chunk(3)
        else:
            still = self.model.encoder(normalise(images[:256]))
            one, two = self.model.encoder(pairs).chunk(2)
        health.health(still.numpy(), one.numpy(), two.numpy())
