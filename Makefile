# Every target sets up what it needs on a fresh Debian or Ubuntu machine (as root, or with sudo) and is quick after that.
VENV ?= .venv
PYTHON := $(VENV)/bin/python
export VENV
MADE = $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	$(shell find . -name __pycache__ -type d -prune -not -path "./$(VENV)/*")

.DEFAULT_GOAL := help
.PHONY: help demo test torture tour vm bench dist check format docs clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  make %-8s %s\n", $$1, $$2 }'

demo: ## run a container with user-mode networking, and show that nothing stays behind
	@.ci/setup run
	@$(PYTHON) -m tests.demo

test: ## all tests, as root and as an unprivileged user, in a machine of their own
	@.ci/setup test
	@.ci/as-root $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

torture: ## the sweeps at full length: every step, call and example, a thousand kills (hours)
	@.ci/setup test
	@.ci/as-root env CTNR_SWEEP_STRIDE=1 $(PYTHON) -m pytest -o faulthandler_timeout=0 tests/sweep $(ARGS)
	@CTNR_SWEEP_STRIDE=1 $(PYTHON) -m pytest -o faulthandler_timeout=0 tests/unit -m hypothesis $(ARGS)

vm: ## what takes cgroup v2, systemd and its journal, in a virtual machine (the first time makes its disk)
	@.ci/setup vm
	@.ci/as-root $(PYTHON) -m tests.vm $(ARGS)

bench: ## ctnr and rootless podman in pairs; writes docs/benchmarks.md
	@.ci/setup bench
	@.ci/as-root $(PYTHON) -m tests.bench $(ARGS)

dist: ## one tree to be mounted or copied at /usr/local of any root filesystem
	@.ci/setup dist
	@$(PYTHON) .ci/dist $(ARGS)

check: ## the quick half: format, ruff, mypy --strict, unit and house tests
	@.ci/setup check
	@$(PYTHON) -m pytest -q tests/house tests/unit $(ARGS)

format: ## put the source into the house's format
	@.ci/setup check
	@$(PYTHON) -m ruff format .
	@$(PYTHON) -m ruff check --fix .

tour: ## record the README's picture of a terminal
	@.ci/setup test
	@.ci/as-root $(PYTHON) -m tests.tour

docs: ## docs/cli.md and the manual page, from the option tables
	@.ci/setup check
	@$(PYTHON) .ci/reference

clean: ## remove what the other targets made here (packages and caches outside stay)
	@rm -rf $(MADE) 2>/dev/null || .ci/as-root rm -rf $(MADE) # tests run as root, and so do their caches
