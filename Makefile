# Two commands do everything on a fresh machine; a second call of either starts at once.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: simulate test clean

simulate: $(READY)
	$(VENV)/bin/confrere simulate configs/quickstart.yaml

test: $(READY)
	$(VENV)/bin/pytest

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit(f"Confrere needs Python 3.11 to 3.13; {sys.executable} is {v[0]}.{v[1]}. Say which: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV)
