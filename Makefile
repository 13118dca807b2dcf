# Two commands do everything: `make run` and `make test`. Each first makes what it needs, and only once.
SHELL := /bin/sh
PYTHON ?= python3
CMD ?= uname -a
TARGET ?= localhost
# As they were typed: make itself must not read the $ in them.
override CMD := $(value CMD)
override TARGET := $(value TARGET)
export CMD TARGET
# Each of the many processes of a stack would compile all of its source again.
unexport PYTHONDONTWRITEBYTECODE

# Program:package pairs of Debian and Ubuntu; what is missing is installed where that is allowed.
TEST_PROGRAMS := sshd:openssh-server ssh:openssh-client ssh-agent:openssh-client dropbear:dropbear-bin dash:dash bash:bash \
	busybox:busybox tcsh:tcsh fish:fish ip:iproute2 ps:procps setsid:util-linux strace:strace sudo:sudo \
	chromium:chromium systemd-analyze:systemd setpriv:util-linux initdb:postgresql

.PHONY: run test check bench chaos profile soak screenshots setup lock clean

run: setup
	@.venv/bin/fleetflow run "$$CMD" --target "$$TARGET"; code=$$?; .venv/bin/fleetflow status; exit $$code

test: setup check
	@sh tests/programs.sh $(TEST_PROGRAMS)
	.venv/bin/pytest

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup
	@sh tests/programs.sh $(TEST_PROGRAMS)
	.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r profiling/peers.lock
	.venv/bin/python profiling/bench.py $(ARGS)

# Kills and cuts all that can be, for most of an hour; ARGS="--rounds 10 --workers 10 --agents 1 --points 20 --cut 10" is a short one.
chaos: setup
	@sh tests/programs.sh $(TEST_PROGRAMS)
	.venv/bin/python profiling/chaos.py $(ARGS)

# NAME is one of profiling/profile_NAME.py: tasks, ssh, hub.
profile: setup
	@test -f "profiling/profile_$(NAME).py" || { echo "say which: make profile NAME=tasks, NAME=ssh or NAME=hub" >&2; exit 2; }
	@mkdir -p build && rm -f "build/$(NAME).bin"
	.venv/bin/memray run --quiet --output "build/$(NAME).bin" "profiling/profile_$(NAME).py"
	.venv/bin/memray flamegraph --force --output "build/$(NAME).html" "build/$(NAME).bin"
	.venv/bin/memray summary "build/$(NAME).bin" | head -20

# The tests marked slow, twenty tasks at once on a hundred hosts, ROUNDS times, a worker's memory over RUNS flow runs, and that of a hub
# and its agents over SECONDS.
soak: setup
	@sh tests/programs.sh $(TEST_PROGRAMS)
	.venv/bin/pytest -n0 -m slow
	PYTHONPATH=. .venv/bin/python profiling/soak_tasks.py --rounds "$(or $(ROUNDS),5)"
	PYTHONPATH=. .venv/bin/python profiling/soak_worker.py --runs "$(or $(RUNS),1000)"
	PYTHONPATH=. .venv/bin/python profiling/soak_hub.py --heap --seconds "$(or $(SECONDS),600)"

# The pictures of Prefect's UI and of the hub's pages in docs/images, taken by the tests that drive them.
screenshots: setup
	@sh tests/programs.sh $(TEST_PROGRAMS)
	SCREENSHOTS=docs/images .venv/bin/pytest -n0 tests/whole/test_ui.py tests/hub/test_pages_browser.py

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || sh tests/programs.sh --python
	$(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
	.venv/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

lock:
	.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --group dev pyproject.toml -o requirements.lock
	.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --group peers -c requirements.lock -o profiling/peers.lock

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
