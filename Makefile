# Everything is made inside .venv; `make run` and `make test` set up what they need first.
PYTHON ?= python3
CMD ?= uname -a
TARGET ?= localhost
BIN := .venv/bin
ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: setup run test check lock clean

setup: .venv/.synced

.venv/.synced: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' || $(MAKE) --no-print-directory python
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --require-hashes --no-deps -r uv.lock.txt
	$(BIN)/uv pip sync -q --require-hashes requirements.lock
