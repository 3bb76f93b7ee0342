"""What the rounds of a run tell, simulated or real: losses, health, alarms, who was left out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from confrere_client.measure.health import alarms, misfits
from confrere_client.train import BUFFER
from confrere_common.method import OWN_FIGURES
from confrere_deploy.report import schema
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.store import ServerState

HEALTH = ("rankme", "feature_std", "uniformity", "alignment", "dead_share", *OWN_FIGURES)


def rounds_told(states: Mapping[int, ServerState], features: int) -> tuple[schema.Round, ...]:
    """Return every round of every seed; *features* is the width of the encoder's output."""
    return tuple(
        schema.Round(
            round=record.round,
            seed=seed,
            loss=record.loss,
            sites=tuple(_site(site, features) for site in record.sites),
            bytes_up=record.bytes_up,
            bytes_down=record.bytes_down,
            seconds=record.seconds,
        )
        for seed, state in states.items()
        for record in state.records
    )


def _site(site: SiteRecord, features: int) -> schema.RoundSite:
    return schema.RoundSite(
        site=site.site,
        loss=site.metrics.get("loss"),
        images=site.images,
        seconds=site.metrics.get("seconds", 0.0),
        metrics={name: site.metrics[name] for name in HEALTH if name in site.metrics},
        alarms=alarms(site.metrics, min(BUFFER, site.images), features) or None,
        refused=site.refused or None,
    )


def alarm_warnings(rounds: Sequence[schema.Round]) -> Iterator[str]:
    """Yield the alarms of the last round, and where the method's task did not fit the images."""
    last = max((r.round for r in rounds), default=0)
    for item in rounds:
        for site in item.sites if item.round == last else ():
            known = {name: value for name, value in site.metrics.items() if value is not None}
            for alarm in (*(site.alarms or ()), *misfits(known, site.images)):
                yield f"Seed {item.seed}, site '{site.site}', last round: {alarm}"


def record_warnings(seed: int, records: Sequence[RoundRecord]) -> Iterator[str]:
    """Yield what was void, and who was left out how often and why."""
    for record in records:
        if record.void:
            yield f"Seed {seed}, round {record.round} changed nothing: {record.void}."
    refused = Counter(s.site for record in records for s in record.sites if s.refused)
    for site, times in refused.items():
        reasons = {s.refused for record in records for s in record.sites if s.site == site} - {""}
        yield (
            f"Seed {seed}: site '{site}' was left out of {times} of {len(records)} rounds: "
            f"{'; '.join(sorted(reasons))}"
        )
