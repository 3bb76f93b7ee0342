"""What a run changes in a model because it is trained among others: mixings, and what stays."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from confrere_common.config import Patterns, Run
from confrere_common.errors import ConfigError
from confrere_common.method import Method
from confrere_common.mixing import MIXINGS, Mixing, mixings_of
from confrere_common.task import FineTask


def must_mix(run: Run) -> None:
    """Raise ConfigError listing what the run's mixings and schedule cannot stand beside.

    Nothing is built; what a method lacks for a mixing is told by ``build_model``.
    """
    chosen = [named.name for named in run.federation.mixing]
    faults = [
        f"federation.mixing names '{one}' twice."
        for one in sorted({one for one in chosen if chosen.count(one) > 1})
    ]
    starting = [one for one in chosen if MIXINGS.member(one).start is not Mixing.start]
    if len(starting) > 1:
        faults.append(
            f"federation.mixing: {' and '.join(starting)} each choose the weights that a round "
            "starts from: keep one of them."
        )
    if run.privacy is not None:
        faults += [
            f"federation.mixing '{one}' looks at the images otherwise than through clipped and "
            "noised gradients, so what it sends or learns of a patient has no bound: leave it "
            "out, or leave out privacy."
            for one in chosen
            if not MIXINGS.member(one).private
        ]
        if run.train.layerwise is not None:
            faults.append(
                "train.layerwise changes what trains from round to round, and the private "
                "gradient is that of all weights: leave one of the two out."
            )
    if faults:
        raise ConfigError(faults)


def among_others(model: Method, run: Run) -> Method:
    """Return *model* with what its mixings send beside it, and a note of what stays at each site.

    ConfigError for a mixing that lacks a part of the method, and a pattern that names no weight, or
    one that a mixing sends.
    """
    stays = frozenset(
        name for name in model.state_dict() if _named_by(run.federation.personal, name)
    )
    if isinstance(model, FineTask) and run.finetune is not None and run.finetune.head == "local":
        stays |= model.of_head()
    for name, mixing, config in mixings_of(run):
        _must_have(model, run.method.name, name, mixing)
        stays |= mixing.stays(config, model)
    model.personal = stays
    own = tuple(model.state_dict())
    for name, mixing, config in mixings_of(run):
        carried = mixing.carried(config, model)
        if carried is not None:
            model.add_module(name, carried)
    _must_share(model, run, own)
    return model


def _must_have(model: Method, method: str, mixing: str, kind: type[Mixing]) -> None:
    for part in kind.needs:
        if not isinstance(getattr(model, part, None), nn.Module):
            raise ConfigError(
                [
                    f"federation.mixing '{mixing}' works on a {part}, and method '{method}' has "
                    f"none: choose a method that has one ({(kind.methods or ('byol',))[0]}), or "
                    f"leave '{mixing}' out."
                ]
            )
    if kind.methods is not None and method not in kind.methods:
        named = " or ".join(kind.methods)
        raise ConfigError(
            [
                f"federation.mixing '{mixing}' changes a part of method {named}, and the run "
                f"trains '{method}': choose that method, or leave '{mixing}' out."
            ]
        )


def _must_share(model: Method, run: Run, own: tuple[str, ...]) -> None:
    """Raise ConfigError where the run's patterns do not mean what is in *model*.

    *own* are the names without what mixings send: that is always joined, so no pattern keeps it.
    """
    names, stages = model.state_dict(), run.train.layerwise.stages if run.train.layerwise else ()
    sent = [name for name in names if name not in own]
    faults = [
        *(fault for one in run.federation.personal for fault in _of_personal(one, own, sent)),
        *(
            f"train.layerwise: {pattern!r} names no weight of the model."
            for pattern in (one for stage in stages for one in stage)
            if not any(_named_by((pattern,), name) for name in names)
        ),
    ]
    if not any(model.is_shared(name) for name, _ in model.named_parameters() if name in own):
        faults.append("federation.personal keeps every weight at its site: nothing is federated.")
    if faults:
        raise ConfigError(faults)


def _of_personal(pattern: str, own: Sequence[str], sent: Sequence[str]) -> Iterator[str]:
    first = f"(the first are {', '.join(own[:3])})"
    joined = next((name for name in sent if _named_by((pattern,), name)), None)
    if joined is not None:
        yield (
            f"federation.personal: {pattern!r} names {joined}, and what a mixing sends beside the "
            f"model never stays: write a pattern that names weights of the model alone {first}, or "
            f"leave '{joined.partition('.')[0]}' out of federation.mixing."
        )
    elif not any(_named_by((pattern,), name) for name in own):
        yield f"federation.personal: {pattern!r} names no weight of the model {first}."


def _named_by(patterns: Patterns, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def active_in(run: Run, round: int, name: str) -> bool:
    """Say whether the weight called *name* trains in *round* (1 for the first)."""
    layerwise = run.train.layerwise
    if layerwise is None:
        return True
    found = [s for s, stage in enumerate(layerwise.stages) if _named_by(stage, name)]
    now = (round - 1) * len(layerwise.stages) // run.federation.rounds
    return not found or now in found or (layerwise.progressive and min(found) < now)
