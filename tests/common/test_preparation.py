"""How images were prepared: what a run may demand of every site, and what a card tells of it."""

import pytest
from tiny_runs import tiny_run

from confrere_common.augment.pipeline import PREPROCESSING
from confrere_common.errors import ConfigError, DataError
from confrere_common.loading import as_dict, parse_run
from confrere_common.model import preprocessing_of
from confrere_common.preparation import (
    WINDOWS,
    Preparation,
    demanded,
    must_be_prepared,
    reproducible,
)

OURS = {"image_px": 32, "ct_windows": ["lung", "soft"], "crop_foreground": True, "slices": "none"}


def test_what_nobody_demands_may_be_anything() -> None:
    must_be_prepared(None, None)
    must_be_prepared(OURS, None)
    must_be_prepared(OURS, Preparation(ct_windows=("lung", "soft"), image_px=32))


def test_a_section_that_demands_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"it demands nothing: name an option"):
        tiny_run(data={"preparation": {}})


def test_another_preparation_is_refused_with_each_difference() -> None:
    wanted = Preparation(ct_windows=("wide",), crop_foreground=False, spacing_mm=(2.0, 1.0, 1.0))

    with pytest.raises(DataError) as told:
        must_be_prepared(OURS, wanted)

    text = str(told.value)
    assert "ct_windows is ['lung', 'soft'], not ['wide']" in text
    assert "crop_foreground is true, not false" in text
    assert "spacing_mm is not set, not [2.0, 1.0, 1.0]" in text
    with pytest.raises(DataError, match="were not prepared"):
        must_be_prepared(None, wanted)


def test_a_card_holds_the_figures_behind_the_names() -> None:
    told = reproducible({**OURS, "scaling": ["ct: hu windows (lung, soft), cropped"]})

    assert told["hu_windows"]["lung"] == {"centre": -600.0, "width": 1500.0}
    assert set(told["hu_windows"]) == {"lung", "soft"}
    assert "percentiles" not in told
    assert reproducible({"scaling": ["us: as stored"]}).keys() == {"scaling", "steps"}
    assert reproducible({"scaling": ["mr: foreground percentiles"]})["percentiles"]["mr"]


def test_a_federation_tells_what_its_run_demanded_and_nothing_else() -> None:
    """Guarantee: nothing of it comes from a site."""
    wanted = Preparation(ct_windows=("wide",), margin=0.1)

    assert demanded(None) is None
    assert demanded(wanted) == {
        "ct_windows": ["wide"], "margin": 0.1, "demanded": "by the run, of every site",
    }  # fmt: skip
    assert preprocessing_of(tiny_run()) == PREPROCESSING
    assert (
        preprocessing_of(tiny_run(), demanded(wanted))["prepared"]["hu_windows"]["wide"]["width"]
        == (WINDOWS["wide"][1])
    )


def test_a_run_that_demands_nothing_is_dumped_as_before() -> None:
    plain = {"name": "tiny", "data": {"source": "phantom"}, "method": "simclr"}
    silent = parse_run(plain, {})
    asking = parse_run({**plain, "data": {**plain["data"], "preparation": {"margin": 0.1}}}, {})

    assert "preparation" not in as_dict(silent)["data"]
    assert as_dict(asking)["data"]["preparation"]["margin"] == 0.1
    assert parse_run(as_dict(asking), {}).data.preparation == Preparation(margin=0.1)


def test_an_unknown_window_is_refused_with_those_that_there_are() -> None:
    plain = {"name": "tiny", "data": {"source": "phantom"}, "method": "simclr"}
    plain["data"] = {"source": "phantom", "preparation": {"ct_windows": ["lng"]}}

    with pytest.raises(ConfigError, match="did you mean 'lung'"):
        parse_run(plain, {})
