"""A site's round: load what came, train on the site's own images, hand back what was learned.

Shapes: B images, C channels, [Z] Y X voxels.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confrere_client import schedule
from confrere_client.device import arithmetic, choose_device, in_parts, prepare
from confrere_client.facts import Cuttable, Facts, Pixels, Weighed
from confrere_client.measure import health
from confrere_client.optimizer import clip, make_optimizer, moments, restore, set_rate
from confrere_client.pieces import Losses, Pieces
from confrere_common.among import active_in
from confrere_common.augment.pipeline import augmentation, normalise
from confrere_common.config import Run
from confrere_common.errors import TrainingError
from confrere_common.mixing import Mixing, Visit, mixings_of
from confrere_common.model import build_model, input_of
from confrere_common.weights import Weights, finite, must_fit

LocalState = Mapping[str, Tensor]
"""What a site keeps between rounds: ``local/<name>``, ``optimizer/<name>.<slot>`` and
``mixing/<mixing>/<name>``."""

Watch = Callable[[int, int, float], None]
"""Called now and then with step, steps and the mean loss so far."""

BUFFER = 256
"""Images on which a site measures the health of its representation after a round."""

PAIRS = 64
"""Images of these of which it compares two views."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a round of training gives."""

    weights: Weights
    """Shared weights after the round."""

    state: LocalState
    metrics: Mapping[str, float]


class Trainer:
    """One model of a run on one device, lent to a site for a round, to any number in turn."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.device = choose_device(run.train.device)
        prepare(self.device)
        self.model = build_model(run, seed=0).to(self.device)
        if self.device.type == "cuda" and run.data.dims == 2:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        channels, size = input_of(run)
        self.augment = augmentation(run.augment, channels=channels, size=size)
        self.losses = torch.compile(self.model.losses) if run.train.compile else self.model.losses
        self.optimizer = make_optimizer(self.model, run.train)
        self.mixings = mixings_of(run)
        alone = all(kind.private for _, kind, _ in self.mixings)
        self.pieces = Pieces(apart=self.model.per_image and alone)
        self.facts = Facts()
        # The model's own tensors, listed once: a walk through the modules costs a tiny site much.
        self.trainable = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.modules = [*self.model.modules()]
        self.trained = list(self.trainable.values())
        own = self.model.state_dict()
        self.shared = {name: t for name, t in own.items() if self.model.is_shared(name)}
        self.local = {name: t for name, t in own.items() if name not in self.shared}
        self._fitting: Weights | None = None
        self._initial: tuple[int, Weights] | None = None

    def must_fit(self, weights: Weights) -> None:
        """Raise ExchangeError unless *weights* are of this model and finite.

        The sites of a simulation are given the very same weights in turn: those are checked once.
        """
        if weights is not self._fitting:
            must_fit(weights, self.shared)
            self._fitting = weights

    def round(
        self,
        weights: Weights,
        state: LocalState,
        images: Pixels,
        *,
        place: "Place",
        watch: Watch | None = None,
    ) -> Trained:
        """Train one round from *weights*; TrainingError when the loss is no longer a number."""
        began = time.perf_counter()
        order, generator = schedule.draws(place.site, seed=place.seed, round=place.round)
        mixings = self._start(weights, state, place, generator)
        steps = schedule.steps_in_round(self.run.train, len(images))
        total = torch.zeros((), device=self.device)
        picks = self._picks(images, steps, order)
        for step, positions in enumerate(picks):
            progress = (place.round - 1 + (step + 0.5) / steps) / self.run.federation.rounds
            total += self._step(images, positions, generator, progress, mixings)
            if self._pause(step, steps):
                self._report(total, step + 1, steps, watch)
        seconds = time.perf_counter() - began
        seen = steps * min(self.run.train.batch, len(images))
        metrics = {"loss": float(total) / steps, "seconds": seconds, "seen": float(seen)}
        if self.run.stage == "pretrain":  # what a task needs of features, its validation tells
            metrics |= self._health(images, generator)
            if self.model.figures:
                metrics |= self._own_figures(images, generator)
        for mixing in mixings:
            metrics |= mixing.told()
        return self._ended(mixings, metrics, steps)

    def follow(
        self,
        weights: Weights,
        state: LocalState,
        gradients: Iterable[Weights],
        *,
        count: int,
        place: "Place",
        watch: Watch | None = None,
    ) -> Trained:
        """Train one round of *count* steps on gradients that are given; no loss is known.

        They are asked for one by one: each may depend on the weights as they then are.
        """
        _, generator = schedule.draws(place.site, seed=place.seed, round=place.round)
        mixings = self._start(weights, state, place, generator)
        own = dict(self.model.named_parameters())
        train, optimizer = self.run.train, self.optimizer
        for step, found in enumerate(gradients):
            progress = (place.round - 1 + (step + 0.5) / count) / self.run.federation.rounds
            set_rate(optimizer, schedule.rate(progress, peak=train.lr, warmup=train.warmup))
            for name, gradient in found.items():
                own[name].grad = gradient
            for mixing in mixings:
                mixing.after_backward()
            optimizer.step()
            self.model.after_step(progress)
            if watch is not None:
                watch(step + 1, count, math.nan)
        return self._ended(mixings, {}, count)

    def _start(
        self, weights: Weights, state: LocalState, place: "Place", generator: torch.Generator
    ) -> list[Mixing]:
        _fill(self.shared, weights)
        self._mode(training=True)
        local = _under("local/", state)
        if local:
            _fill(self.local, local)
        else:
            _fill(self.local, self._personal(place.seed))
            self.model.start_local()
        if self.run.train.layerwise is not None:
            for name, parameter in self.trainable.items():
                parameter.requires_grad_(active_in(self.run, place.round, name))
        self.optimizer.state.clear()  # what the site before this one left
        restore(self.model, self.optimizer, _under("optimizer/", state))
        return self._mixings_at(weights, state, place, generator)

    def _mixings_at(
        self, weights: Weights, state: LocalState, place: "Place", generator: torch.Generator
    ) -> list[Mixing]:
        """Return the round's mixings; the model then stands where they want it to start."""
        mixings = []
        for name, kind, config in self.mixings:
            visit = Visit(
                method=self.model,
                given=weights,
                kept=_under(f"mixing/{name}/", state),
                generator=generator,
                round=place.round,
                run=self.run,
            )
            mixings.append(kind(config, visit))
        for mixing in mixings:
            if (start := mixing.start()) is not weights:
                _fill(self.shared, start)
        return mixings

    def _personal(self, seed: int) -> Weights:
        """Return what a site's personal weights start from: the same at all sites."""
        if not self.model.personal:
            return {}
        if self._initial is None or self._initial[0] != seed:
            own = build_model(self.run, seed).state_dict()
            self._initial = seed, {name: own[name] for name in self.model.personal}
        return self._initial[1]

    def _ended(
        self, mixings: Sequence[Mixing], metrics: Mapping[str, float], steps: int
    ) -> Trained:
        trained, kept = _copies(self.shared), dict(self._keep())
        sent: Weights = trained
        for (name, _, _), mixing in zip(self.mixings, mixings, strict=True):
            kept |= {f"mixing/{name}/{key}": t for key, t in mixing.keep(trained).items()}
            sent = mixing.sent(sent)
        if not (finite(sent) and finite(kept)):  # the loss was sound, its last step was not
            raise self._lost("the weights were no longer numbers", steps, steps)
        return Trained(weights=sent, state=kept, metrics=metrics)

    def _picks(
        self, images: Pixels, steps: int, order: np.random.Generator
    ) -> Iterable[NDArray[np.int64]]:
        batch = self.run.train.batch
        if isinstance(images, Weighed) and images.chances is not None:
            return schedule.weighed_batches(images.chances, batch, steps, order)
        return schedule.batches(len(images), batch, steps, order)

    def fetch(self, images: Pixels, positions: NDArray[np.int64]) -> Tensor:
        """Return stored images on the device."""
        batch = images.batch(positions)
        if self.device.type == "cuda":
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch

    def known(
        self, images: Pixels, positions: NDArray[np.int64], *, passing: bool = False
    ) -> list[Tensor]:
        """Return what the method wants to know of stored images, on the device."""
        wants, facts, model = self.model.wants, self.facts, self.model
        found = (facts.of(kind, images, positions, model, passing=passing) for kind in wants)
        return [tensor.to(self.device) for tensor in found]

    def seen(
        self, images: Pixels, positions: NDArray[np.int64], generator: torch.Generator
    ) -> tuple[Tensor, list[Tensor]]:
        """Return what a step sees of stored images, and what the method wants to know of that.

        Nothing is drawn from *generator* unless the run takes crops.
        """
        part = images.cut(positions, generator) if isinstance(images, Cuttable) else images
        passing = part is not images
        return self.fetch(part, positions), self.known(part, positions, passing=passing)

    def _step(
        self,
        images: Pixels,
        positions: NDArray[np.int64],
        generator: torch.Generator,
        progress: float,
        mixings: Sequence[Mixing],
    ) -> Tensor:
        train, optimizer = self.run.train, self.optimizer
        set_rate(optimizer, schedule.rate(progress, peak=train.lr, warmup=train.warmup))
        stored, known = self.seen(images, positions, generator)
        views = self.model.informed_views(stored, known, self.augment, generator)
        loss = self.pieces.backward(
            self._mixed(mixings), views, lambda: arithmetic(train, self.device), self.trained
        )
        for mixing in mixings:
            mixing.after_backward()
        if train.clip_norm is not None:
            clip(self.trained, train.clip_norm)
        optimizer.step()
        self.model.after_step(progress)
        return loss

    def _mixed(self, mixings: Sequence[Mixing]) -> Losses:
        def losses(*views: Tensor) -> Tensor:
            losses_B: Tensor = self.losses(*views)
            for mixing in mixings:
                losses_B = mixing.losses(losses_B, *views)
            return losses_B

        return losses if mixings else self.losses

    def _pause(self, step: int, steps: int) -> bool:
        # Reading the loss makes a GPU wait, so there it is read only now and then.
        return self.device.type == "cpu" or step % 25 == 24 or step == steps - 1

    def _report(self, total: Tensor, done: int, steps: int, watch: Watch | None) -> None:
        mean = float(total) / done
        if not math.isfinite(mean):
            raise self._lost("the loss was no longer a number", done, steps)
        if watch is not None:
            watch(done, steps, mean)

    def _lost(self, what: str, step: int, steps: int) -> TrainingError:
        return TrainingError(
            f"{what} at step {step} of {steps}. Lower train.lr "
            f"(now {self.run.train.lr:g}), or set train.clip_norm."
        )

    @torch.no_grad()
    def _health(self, images: Pixels, generator: torch.Generator) -> dict[str, float]:
        stored = self.fetch(images, _spread(len(images), BUFFER))
        self._mode(training=False)
        with arithmetic(self.run.train, self.device):
            pairs = self.augment(torch.cat([stored[:PAIRS]] * 2), generator)
            still, one, two = self._encoded(normalise(stored), pairs)
        return health.health(still.cpu().numpy(), one.cpu().numpy(), two.cpu().numpy())

    @torch.no_grad()
    def _own_figures(self, images: Pixels, generator: torch.Generator) -> Mapping[str, float]:
        positions = _spread(len(images), PAIRS)
        stored, known = self.fetch(images, positions), self.known(images, positions)
        with arithmetic(self.run.train, self.device):
            views = self.model.informed_views(stored, known, self.augment, generator)
            return self.model.told(*views)

    def _encoded(self, still_BCZYX: Tensor, pairs_BCZYX: Tensor) -> Sequence[Tensor]:
        """Return features of unvaried images, and of the first and second views of as many."""
        encoder = self.model.encoder
        if len(still_BCZYX) <= PAIRS:  # of so few, the calls cost more than the images do
            return in_parts(encoder, torch.cat([still_BCZYX, pairs_BCZYX])).chunk(3)
        still_BF = in_parts(encoder, still_BCZYX)
        return (still_BF, *in_parts(encoder, pairs_BCZYX).chunk(2))

    def _mode(self, *, training: bool) -> None:
        for module in self.modules:
            # As nn.Module.train does, but for its walk down the tree.
            vars(module)["training"] = training

    def _keep(self) -> LocalState:
        kept = {f"local/{name}": t for name, t in _copies(self.local).items()}
        if self.run.train.optimizer_state == "keep":
            named = moments(self.model, self.optimizer)
            kept |= {f"optimizer/{name}": tensor for name, tensor in named.items()}
        return kept


def _spread(images: int, most: int) -> NDArray[np.int64]:
    """Return positions of at most so many images, evenly over all."""
    if images <= most:
        return np.arange(images)
    return np.linspace(0, images - 1, most).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which site, which round, which repetition: all that a round's randomness depends on."""

    site: str
    round: int
    seed: int


@torch.no_grad()
def _fill(own: Weights, given: Weights) -> None:
    if isinstance(given, dict) and given:
        torch._foreach_copy_([own[name] for name in given], [*given.values()])
        return
    for name, tensor in given.items():  # from a file, one at a time
        own[name].copy_(tensor)


@torch.no_grad()
def _copies(own: Weights) -> dict[str, Tensor]:
    copies = {name: torch.empty_like(tensor, device="cpu") for name, tensor in own.items()}
    if copies:
        torch._foreach_copy_([*copies.values()], [*own.values()])
    return copies


def _under(start: str, state: LocalState) -> dict[str, Tensor]:
    return {name[len(start) :]: t for name, t in state.items() if name.startswith(start)}
