"""Descriptions as they come: the sound are kept, the others are refusals."""

from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from described import ASKED, describing_run, text_of, told

from confrere_common.describe import MOST_TEXT
from confrere_common.errors import ConfigError, ExchangeError
from confrere_common.exchange import Answer, Refusal, Update
from confrere_common.marks import (
    MOST_MARKS_BYTES,
    mark_of,
    marks_among,
    packed_marks,
    read_marks,
    salt_of,
)
from confrere_server.description.collecting import (
    as_json,
    asked_of,
    from_json,
    heard,
    heard_into,
    keep_in,
    kept_in,
    most_told,
    put_together,
    shared_from_json,
)
from confrere_server.description.sharing import Shared, Sharing, shared_in
from confrere_server.record import RoundRecord, SiteRecord
from confrere_server.store import ServerState

SHARING = replace(ASKED, duplicates=True)


def update(site: str, text: str) -> Update:
    return Update(site=site, round=1, delta={}, images=40, description=text)


def test_what_is_sound_is_kept_and_what_is_not_is_a_refusal() -> None:
    kept: dict[str, str] = {}
    away = Refusal(site="east", round=1, reason="paused")
    come: list[Answer] = [update("north", text_of(40)), update("south", "Mueller"), away]

    found = list(heard(come, ASKED, kept.__setitem__, pytest.fail))

    assert kept == {"north": text_of(40)}
    assert found[0] == come[0]
    assert isinstance(found[1], Refusal)
    assert found[1].reason.startswith("its description was left out")
    assert "Mueller" not in found[1].reason
    assert found[2] == away


def sharing_update(site: str, count: int) -> Update:
    found = (mark_of(f"{number:032x}", salt_of("run")) for number in range(count))
    told = marks_among(found, 100)
    assert told is not None
    return replace(update(site, text_of(40)), marks=packed_marks(told))


def test_marks_are_counted_once_all_came_and_go_no_further() -> None:
    counted: list[Sharing] = []
    come = [sharing_update("north", 30), sharing_update("south", 20), update("west", text_of(40))]

    answers = heard(come, SHARING, lambda *_: None, counted.append)

    found = [*answers]
    assert [answer.marks for answer in found if isinstance(answer, Update)] == [b""] * 3
    assert counted[0].sites == ("north", "south")
    assert [pair.images for pair in counted[0].pairs] == [20]


def test_no_mark_is_in_any_file_of_the_run(tmp_path: Path) -> None:
    come = [sharing_update("north", 30), sharing_update("south", 20)]

    list(heard_into(tmp_path, come, SHARING))

    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    marks = read_marks(come[0].marks, 40).marks
    assert shared_in(tmp_path).pairs[0].images == 20
    for form in (bytes, bytes.hex, b64encode):
        assert not any(_bytes(form(mark))[:20] in written for mark in marks)


def _bytes(form: bytes | str) -> bytes:
    return form if isinstance(form, bytes) else form.encode()


def test_marks_that_are_unsound_or_unasked_leave_the_site_out() -> None:
    unsound = replace(update("north", text_of(40)), marks=b"Mueller")
    unasked = sharing_update("south", 20)
    kept: dict[str, str] = {}

    found = [
        *heard([unsound], SHARING, kept.__setitem__, lambda _: None),
        *heard([unasked], ASKED, kept.__setitem__, pytest.fail),
    ]

    assert kept == {}
    assert all(isinstance(one, Refusal) and "Mueller" not in one.reason for one in found)


def test_the_bytes_of_marks_count_in_what_is_proposed() -> None:
    assert most_told(ASKED) == MOST_TEXT
    assert most_told(SHARING) == MOST_TEXT + MOST_MARKS_BYTES


def test_numbers_of_shared_images_are_read_as_they_were_written() -> None:
    sharing = Sharing(sites=("north", "south"), pairs=(Shared(one="a", two="b", least=5),))
    content = as_json({"north": told(40)}, SHARING, sharing)

    assert shared_from_json(content) == sharing
    assert from_json(content)[0] == {"north": told(40)}
    assert shared_from_json(as_json({"north": told(40)}, ASKED)) == Sharing()


def test_what_comes_again_takes_the_place_of_what_came_first(tmp_path: Path) -> None:
    keep = keep_in(tmp_path)

    keep("north", text_of(20))
    keep("north", text_of(40))

    assert kept_in(tmp_path) == {"north": text_of(40)}


def test_only_sites_whose_answer_counted_are_put_together() -> None:
    sites = (SiteRecord(site="north", images=40), SiteRecord(site="south", refused="images"))
    record = RoundRecord(round=1, sites=sites, bytes_up=0, bytes_down=0, seconds=1.0)
    state = ServerState(round=1, weights={}, step={}, records=(record,))
    texts = {"north": text_of(40), "south": text_of(30)}

    found = put_together(describing_run(), state, texts)

    assert found == {"north": told(40)}


def test_a_file_is_read_as_it_was_written() -> None:
    sites = {"north": told(40), "south": told(30, label="ill")}

    assert from_json(as_json(sites, ASKED)) == (sites, ASKED)


@pytest.mark.parametrize("change", [(b'"patients": 40', b'"patients": 41'), (b"{", b"")])
def test_a_file_that_was_changed_is_not_read(change: tuple[bytes, bytes]) -> None:
    with pytest.raises(ExchangeError):
        from_json(as_json({"north": told(40)}, ASKED).replace(*change, 1))


def test_a_run_that_trains_asks_for_no_description() -> None:
    with pytest.raises(ConfigError, match="write stage: describe"):
        asked_of(describing_run(stage="finetune", finetune={"task": "classification"}))
