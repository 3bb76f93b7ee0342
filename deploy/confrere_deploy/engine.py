"""The contract of an engine: it carries the rounds of one training between a server and its sites.

An engine is a function ``(job) -> ServerState``: both sides are the production code, only what
lies between them differs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import confrere_deploy.engines
from confrere_client.data.images import Images
from confrere_common.config import Run
from confrere_common.errors import ConfigError
from confrere_common.exchange import Ask
from confrere_common.family import Family
from confrere_common.loading import digest, dump
from confrere_common.model import first_weights
from confrere_common.weights import Weights
from confrere_server.masked import Veil
from confrere_server.rounds import Observe, Study, run_rounds
from confrere_server.store import ServerState, newest_state, save_state

SiteWatch: TypeAlias = Callable[[str, int, int, float], None]
"""Called now and then while a site trains: site, step, steps, mean loss."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: one run, one seed, some sites, one folder to keep its state in."""

    run: Run
    seed: int
    images: Images
    sites: Mapping[str, NDArray[np.int64]]
    """Site -> rows of *images*."""

    folder: Path
    observe: Observe
    watch: SiteWatch
    warm: Weights = field(default_factory=dict)
    """Shared weights that do not start fresh."""

    enough: Callable[[ServerState], bool] = lambda _: False
    """Asked after each round, and before the first, whether to stop."""

    resources: Mapping[str, Any] = field(default_factory=dict)
    """What the ray engine gives each site: num_cpus, num_gpus."""

    @cached_property
    def text(self) -> str:
        """Return the run as sites receive it."""
        return dump(self.run)

    @cached_property
    def digest(self) -> str:
        """Return what ties saved states to this run."""
        return digest(self.text)

    def start(self) -> ServerState:
        """Return the newest saved state, or the beginning: fresh weights from the seed."""
        found = newest_state(self.folder / "checkpoints", digest=self.digest)
        if found is not None:
            return found
        weights = first_weights(self.run, self.seed, self.warm)
        return ServerState(round=0, weights=weights, step={})

    def carry(self, ask: Ask, veil: Veil | None = None) -> ServerState:
        """Do the remaining rounds over the transport *ask*, saving after each.

        Masked rounds go over the transport in *veil*.
        """
        study = Study(
            run=self.run,
            text=self.text,
            seed=self.seed,
            sites=tuple(self.sites),
            ask=ask,
            save=self.save,
            observe=self.observe,
            enrolled={site: len(rows) for site, rows in self.sites.items()},
            enough=self.enough,
            veil=veil,
        )
        return run_rounds(study, self.start())

    def save(self, state: ServerState) -> None:
        """Save the state of a finished round."""
        keep = self.run.federation.keep_checkpoints
        save_state(self.folder / "checkpoints", state, digest=self.digest, keep=keep)


Engine: TypeAlias = Callable[[Job], ServerState]

ENGINES: Family[Engine] = Family("engine", confrere_deploy.engines)


def needs(package: str, advice: str, *, whole: bool = False) -> Callable[[Engine], Engine]:
    """Mark an engine that runs only where *package* is installed; *advice* says how to get it.

    *whole*: it hands images to sites in one file, all of one size, and cannot take crops.
    """

    def marked(engine: Engine) -> Engine:
        engine.needs = (package, advice)  # type: ignore[attr-defined]
        engine.whole = whole  # type: ignore[attr-defined]
        return engine

    return marked


def must_cut(name: str, run: Run) -> None:
    """Raise ConfigError when a run takes crops and the engine hands images out whole."""
    if run.data.crop_px is not None and getattr(ENGINES.member(name), "whole", False):
        fault = f"--engine {name} hands out images of one size, and data.crop_px takes crops"
        raise ConfigError([f"{fault}: use --engine inline."])


def must_run(name: str) -> None:
    """Raise ConfigError when there is no such engine, or what it needs is not installed."""
    package, advice = getattr(ENGINES.member(name), "needs", ("", ""))
    if package and find_spec(package) is None:
        raise ConfigError([f"--engine {name} needs {package}, which is not installed: {advice}."])
