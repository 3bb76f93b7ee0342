"""The run with the fewest words: what it leaves out has a default."""

from collections.abc import Mapping
from typing import Any

LEAST: Mapping[str, Any] = {"name": "least", "data": {"source": "phantom"}, "method": "byol"}
