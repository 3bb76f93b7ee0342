"""Every family that a run chooses from, by the choice's place in the run."""

from confrere_client.source import SOURCES
from confrere_common.loading import COMMON_FAMILIES, Families
from confrere_deploy.split import SPLITS
from confrere_server.rule import RULES
from confrere_server.step import STEPS

ALL_FAMILIES: Families = {
    **COMMON_FAMILIES,
    "data.source": SOURCES,
    "data.split": SPLITS,
    "federation.rule": RULES,
    "federation.step": STEPS,
}
