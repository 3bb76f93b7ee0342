"""What is said in a masked round comes over Flower's records as it went, or not at all."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from masked_rounds import Ward, params_of, talk_of, task_of, template_of, ward_of, weights

from confrere_common.errors import ExchangeError
from confrere_common.exchange import Refusal, Update
from confrere_common.secagg.messages import Invitation
from confrere_common.wire import (
    answer_records,
    is_masked,
    read_reply,
    read_request,
    reply_records,
    request_records,
    task_records,
)
from confrere_server.unmask import start_talk, sum_of


def travelling(ward: Ward) -> Any:
    """Return a transport on which everything goes through Flower's records."""

    def carry(requests: Any, task: Any) -> Any:
        for site, request in requests.items():
            along = task_records(task) if task is not None else None
            request, found = read_request(request_records(request, along))
            replied = ward.hospitals[site].reply(request, found)
            if isinstance(replied, Refusal):
                yield site, read_reply(answer_records(replied))
            else:
                yield site, read_reply(reply_records(replied))

    return carry


def test_a_whole_round_goes_over_the_wire() -> None:
    ward = ward_of(4, entries=100)
    direct = sum_of(talk_of(ward), task_of(ward))
    again = ward_of(4, entries=100)
    again.hospitals = {**again.hospitals}

    params = params_of(again.hospitals, template_of(again))
    found = sum_of(start_talk(params, travelling(again), again.verify), task_of(again))

    assert found.sites == direct.sites
    assert all(np.array_equal(found.delta[name], direct.delta[name]) for name in direct.delta)


def test_a_refusal_goes_over_the_wire() -> None:
    refusal = Refusal(site="north", round=3, reason="no")

    assert read_reply(answer_records(refusal)) == refusal


def test_a_plain_update_is_no_part_of_a_masked_round() -> None:
    update = Update(site="north", round=3, delta=weights(), images=3)

    with pytest.raises(ExchangeError, match="a plain update came"):
        read_reply(answer_records(update))
    assert not is_masked(answer_records(update))


def masked(**said: Any) -> RecordDict:
    return RecordDict({"masked": ConfigRecord(said)})


def vector(data: bytes, stype: str = "confrere.uint32") -> RecordDict:
    array = Array(dtype="uint32", shape=(10**12,), stype=stype, data=data)
    records = masked(kind="vector")
    records["vector"] = ArrayRecord({"vector": array})
    return records


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        masked(),
        masked(kind="Roll"),
        masked(kind="Roll", body="text"),
        masked(kind="Roll", body=b"{}"),
        masked(kind="vector"),
        masked(kind="Params", body=b"{}"),
        masked(kind=3, body=b"{}"),
        vector(b"123"),
        vector(b"1234", stype="numpy.ndarray"),
    ],
)
def test_anything_else_is_refused(records: RecordDict) -> None:
    with pytest.raises(ExchangeError):
        read_reply(records)
    with pytest.raises(ExchangeError):
        read_request(records)


def test_what_is_said_of_a_vector_s_shape_is_not_believed() -> None:
    found = read_reply(vector(bytes(8)))

    assert isinstance(found, np.ndarray)
    assert found.shape == (2,)


def test_a_request_without_a_task_has_none() -> None:
    invitation = Invitation(params=params_of(["a", "b", "c"], weights()))

    assert read_request(request_records(invitation)) == (invitation, None)
