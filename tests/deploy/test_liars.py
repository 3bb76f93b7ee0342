"""A site that answers rubbish is set aside with a reason; it ends no run and harms no other site.

What cannot be read at all is in ``tests/common/test_wire.py``, trees that are no answer in
``tests/server/transport/test_superlink.py``.
The server, its edge and its conductor are the real ones; the sites speak the real protocol.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from puppet import moved, playing, willing
from served import Folders, enrolled, federated, make_study, served, until

from confrere_client.daemon.fleet import Incoming, Line
from confrere_common.exchange import Refusal, Task
from confrere_common.proposal import Standing
from confrere_common.wire import answer_records, read_task, standing_records
from confrere_server.runs.queue import submit

ESCAPE = "\x1b]0;owned\x07\n2026 INFO all is well"

Lie = Callable[[Task], RecordDict]


def update(task: Task, **changes: Any) -> RecordDict:
    return answer_records(replace(moved("liar", task, 0.1), **changes))


def with_part(name: str, part: Any) -> Lie:
    def lie(task: Task) -> RecordDict:
        records = update(task)
        records[name] = part
        return records

    return lie


def as_array(task: Task, array: Array) -> RecordDict:
    records = update(task)
    records["delta"] = ArrayRecord(dict.fromkeys(task.weights, array))
    return records


LIES: dict[str, Lie] = {
    "nothing at all": lambda _: RecordDict(),
    "an endless witness": with_part("witness", ConfigRecord({"length": float("inf"), "head": "x"})),
    "a witness that draws": with_part("witness", ConfigRecord({"length": 3, "head": ESCAPE})),
    "a pickle": lambda t: as_array(t, Array("float32", (1,), "numpy.ndarray", b"\x80\x04N.")),
    "more images than there are": lambda t: update(t, images=2**62),
    "another site's name": lambda t: update(t, site="honest"),
    "another round": lambda t: update(t, round=99),
    "a figure that is a list": with_part("metrics", MetricRecord({"loss": [1.0, 2.0]})),
    "a reason that draws": lambda t: answer_records(
        Refusal(site="liar", round=t.round, reason=ESCAPE)
    ),
    "a reason without end": lambda t: answer_records(
        Refusal(site="liar", round=t.round, reason="x" * 3_000_000)
    ),
}


def test_no_lie_ends_a_run(tmp_path: Path) -> None:
    lies = list(LIES.items())
    told: list[str] = []

    def lying(line: Line, incoming: Incoming) -> RecordDict:
        records = line.fetch(incoming)
        if incoming.kind == "query":
            return standing_records(Standing(site="liar", state="approved", code="", images=7))
        name, lie = lies[len(told) % len(lies)]
        told.append(name)
        return lie(read_task(records))

    limits = {"offences": 1000}
    wanted = federated(rounds=len(lies), min_sites=2, limits=limits)
    with served(make_study(tmp_path / "coordinator")) as server:
        honest = enrolled(server.workspace, tmp_path / "honest", "honest")
        liar = enrolled(server.workspace, tmp_path / "liar", "liar")
        with playing(honest, willing(honest)), playing(liar, lying):
            run = submit(server.workspace.runs, wanted)
            until(lambda: run.standing.state not in ("queued", "gathering", "training"), 60)
        standing = run.standing

    assert (standing.state, standing.why) == ("done", "")
    assert told[: len(lies)] == [name for name, _ in lies]
    rounds = json.loads((run.path / "rounds.json").read_text())
    for (name, _), record in zip(lies, rounds, strict=True):
        sites = {site["site"]: site for site in record["sites"]}
        assert not sites["honest"]["refused"], name
        harmless = "witness" in name
        assert bool(sites["liar"]["refused"]) != harmless, (name, sites["liar"])
        assert len(sites["liar"]["refused"]) <= 1000, name
    for name, content in Folders(server.workspace).contents().items():
        if name.endswith((".json", ".jsonl")):
            assert b"\\u001b" not in content, name
            assert len(content) < 1_000_000, name


def test_a_site_that_says_rubbish_of_a_plan_takes_no_part_and_nobody_waits_for_it(
    tmp_path: Path,
) -> None:
    said = iter(
        [
            RecordDict(),
            RecordDict({"standing": ConfigRecord({"json": "[" * 5000})}),
            RecordDict({"standing": ConfigRecord({"json": json.dumps({"state": "approved"})})}),
            standing_records(Standing(site="honest", state="approved", code="", images=3)),
        ]
    )

    def raving(line: Line, incoming: Incoming) -> RecordDict | None:
        line.fetch(incoming)
        return next(said, None)

    with served(make_study(tmp_path / "coordinator")) as server:
        honest = enrolled(server.workspace, tmp_path / "honest", "honest")
        raver = enrolled(server.workspace, tmp_path / "raver", "raver")
        with playing(raver, raving) as came, playing(honest, willing(honest)):
            run = submit(server.workspace.runs, federated(rounds=2))
            until(lambda: run.standing.state not in ("queued", "gathering", "training"), 30)
        standing = run.standing

    assert standing.state == "done"
    assert set(came) <= {"query"}
    assert standing.sites["raver"]["standing"] == "waiting"


def test_a_site_that_never_approved_is_never_sent_a_task(tmp_path: Path) -> None:
    def undecided(line: Line, incoming: Incoming) -> RecordDict:
        line.fetch(incoming)
        said = Standing(site="shy", state="waiting", code="not-approved", images=0)
        return standing_records(said)

    with served(make_study(tmp_path / "coordinator")) as server:
        honest = enrolled(server.workspace, tmp_path / "honest", "honest")
        shy = enrolled(server.workspace, tmp_path / "shy", "shy")
        with playing(shy, undecided) as came, playing(honest, willing(honest)):
            until(lambda: len(server.nodes()) == 2)
            run = submit(server.workspace.runs, federated(rounds=3))
            until(lambda: run.standing.state == "done", 30)

    assert set(came) == {"query"}
    rounds = json.loads((run.path / "rounds.json").read_text())
    assert {site["site"] for record in rounds for site in record["sites"]} == {"honest"}
    assert list(server.workspace.objects.iterdir()) == []
