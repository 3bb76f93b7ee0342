"""A server does not start a private run whose method would break its promise."""

from dataclasses import replace

import pytest
from private_steps import private_run
from stage import SOUND, START, Stage

from confrere_common.errors import ConfigError
from confrere_server.rounds import run_rounds


def test_a_private_run_of_a_method_that_couples_images_is_refused_before_its_first_round() -> None:
    stage = Stage(SOUND)

    with pytest.raises(ConfigError, match="method 'vicreg' compares images"):
        run_rounds(replace(stage.study, run=private_run("vicreg")), START)
