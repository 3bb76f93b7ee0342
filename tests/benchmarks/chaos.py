"""Does a federation survive? Kills, pauses and cuts at seeded moments, counted and judged.

    python tests/benchmarks/chaos.py [--kills 200] [--minutes M] [--seed S] [--quick]

A server and three daemons with a worker each, as processes on loopback with TLS on, from a frozen
copy of the sources; a ViT so small that a round trains in a tenth of a second; every site is waited
for (``quorum: 1``), so that the weights depend on nothing that chance decides. Runs of six rounds
follow one another; each must end with the very bytes of the first, which nothing disturbed.

SIGKILL hits server, daemons and workers, SIGSTOP stops them for up to 4 s, lines are cut or go dead
for up to 5 s. Four strikes in ten are aimed: they wait until a checkpoint or an update is being
written, a round was closed, an update is on its way. One in three is followed at once by another,
and two in ten kill several processes in the same moment, as when a machine loses its power.

What must hold: every run is done; every round of it was closed exactly once, with every site in it,
and with the undisturbed run's weights; all audit logs verify, the sites' against the server's
witness too; no site sent two different updates for a round. ``next_round_s``: from the strike until
the next round was closed, starts of Python included (a daemon and its worker import torch anew).

Prints a table and writes ``results/chaos.json`` (``--quick``: 10 kills, writes nothing).
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from timing import facts, said, write

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy" / "chaos"))

from campaign import Campaign
from federation import Federation, federation, freeze


def main() -> None:
    given = _arguments()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with federation(root, freeze(root / "snapshot")) as made:
            campaign = _carried_out(made, given, began + 60 * given.minutes)
            faults = campaign.faults()
    result = {
        **facts(),
        "seed": given.seed,
        "seconds": round(time.monotonic() - began),
        "kills": sum(one.kind == "kill" for one in campaign.strikes),
        "strikes": len(campaign.strikes),
        "runs": len(campaign.runs),
        "rounds": len(campaign.runs) * campaign.rounds,
        "faults": faults,
        "table": campaign.table(),
    }
    _print(result)
    if not given.quick:
        write("chaos", result)
    sys.exit(1 if faults else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=600.0, help="strike no longer than that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="10 kills, writes nothing")
    given = parser.parse_args()
    given.kills = 10 if given.quick else given.kills
    return given


def _carried_out(made: Federation, given: argparse.Namespace, until: float) -> Campaign:
    campaign = Campaign(made, given.seed)
    try:
        made.open()
        campaign.begin()
        campaign.strike(given.kills, until)
        campaign.end()
    except (TimeoutError, AssertionError):
        for who in ("server", *made.names):
            print(f"== {who}\n{made.tail(who)}", file=sys.stderr)
        raise
    return campaign


def _print(result: dict[str, object]) -> None:
    print(f"{'what':8}{'who':8}{'times':>6}{'aimed':>6}{'next round: median':>20}{'most':>8}")
    for row in result["table"]:  # type: ignore[attr-defined]
        took = row["next_round_s"] or {"median": "", "most": ""}
        print(
            f"{row['what']:8}{row['who']:8}{row['times']:>6}{row['aimed']:>6}"
            f"{took['median']:>18} s{took['most']:>6} s"
        )
    print(f"{result['kills']} kills, {result['strikes']} strikes, {result['rounds']} rounds:")
    for fault in result["faults"]:  # type: ignore[attr-defined]
        print(f"  {fault}")
    print(f"equal to the undisturbed run, nothing lost or doubled: {said(not result['faults'])}")


if __name__ == "__main__":
    main()
