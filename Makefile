# make demo   shows the main job, with a real Docker, in a throw-away kernel
# make test   runs every check and every test
# Both install what they need: Debian packages with apt-get, Python ones with pip into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PREFIX ?= /usr/local
DESTDIR ?=
VENV := .venv
BIN := $(VENV)/bin

# the lab's kernel, and what runs in it
PACKAGES := busybox-static dmsetup e2fsprogs kmod lvm2 mmdebstrap thin-provisioning-tools udev \
    user-mode-linux xfsprogs
# an ordinary user makes the Docker root in a user namespace
ifneq ($(shell id -u),0)
PACKAGES += uidmap
endif

.PHONY: help demo test bench bench-monitor setup packages venv root lint types architecture unit property lab campaign system man clean vagrant-box vagrant-test vagrant-clean promtool catalog install

help:
	@echo "make demo   the main job, step by step, in a throw-away kernel (under three minutes)"
	@echo "make test   lint, types, architecture, unit and lab tests, the last with real LVM and Docker"
	@echo "            each alone: make lint types architecture unit property lab system"
	@echo "make campaign  the lab tests that take too long for every run (an hour)"
	@echo "make promtool  Prometheus' own tool judges docs/alerts.yml and the document of metrics"
	@echo "make bench  time against plain LVM and Docker's own set-up, in a throw-away kernel (half an hour)"
	@echo "make bench-monitor  how soon full pools are extended, against dmeventd (hours)"
	@echo "make vagrant-test  stories on whole machines of Vagrant's; vagrant-box, vagrant-clean: docs/vagrant.md"
	@echo "make setup  only install what both need; make root: only make the lab's Docker root"
	@echo "make install  udev rules, systemd units, manual page, completions: PREFIX=/usr/local DESTDIR="
	@echo "make man    write docs/man/thinpoolmgr.1 from the command line's help"
	@echo "make catalog  write systemd/thinpoolmgr.catalog from the stories of the codes"
	@echo "make clean  remove .venv and all caches in this folder"

demo: setup
	@$(BIN)/thinpoolmgr lab demo

# What needs no kernel runs two at a time, the first of them what is made over the network; each tells all at its end.
test: setup
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target root lint types architecture unit property
	@$(MAKE) --no-print-directory lab
	@$(MAKE) --no-print-directory system

setup: venv

packages:
	@missing=(); \
	for package in $(PACKAGES); do \
	    [[ $$(dpkg-query -W -f '$${Status}' $$package 2>/dev/null) == *" installed" ]] || missing+=($$package); \
	done; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv); \
	(( $${#missing[@]} )) || exit 0; \
	command -v apt-get >/dev/null || { echo "This needs a Debian: $${missing[*]} missing, and no apt-get." >&2; exit 1; }; \
	as_root=(); \
	if (( EUID )); then \
	    command -v sudo >/dev/null || \
	        { echo "Run this as root: apt-get install --no-install-recommends $${missing[*]}" >&2; exit 1; }; \
	    as_root=(sudo); \
	fi; \
	echo "Installing Debian packages, once: $${missing[*]}"; \
	"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update --quiet --quiet; \
	"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
	    apt-get install --quiet --quiet --yes --no-install-recommends "$${missing[@]}"

# The stamp holds what the environment was made from, so that it is filled again only when that has changed.
venv: packages
	@stamp() { echo "$(CURDIR)"; cat pyproject.toml; }; \
	if $(BIN)/python -c '' 2>/dev/null && stamp | cmp --silent - $(VENV)/stamp; then exit 0; fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	echo "Installing Python packages into $(VENV), once"; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); \
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[dev]'; \
	stamp >$(VENV)/stamp

root: setup
	@$(BIN)/thinpoolmgr lab root

lint: setup
	@echo "== lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@echo "== types"
	@$(BIN)/mypy

architecture: setup
	@echo "== architecture"
	@$(BIN)/lint-imports

unit: setup
	@echo "== unit tests"
	@$(BIN)/python -m pytest --quiet tests/unit

property: setup
	@echo "== property tests: lives of pools on the in-memory host"
	@$(BIN)/python -m pytest --quiet tests/property

lab: setup
	@echo "== lab tests: real LVM and Docker, in throw-away kernels"
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/lab/run.sh

campaign: setup
	@echo "== campaign: the lab tests that take too long for every run"
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/lab/run.sh campaign
	@$(BIN)/python -m pytest tests/system -m campaign
	@$(MAKE) --no-print-directory promtool

# Taken out of its package where it is not there: to install that would start a Prometheus.
promtool: setup
	@echo "== promtool: alert rules, and the document they are for"
	@promtool=$$(command -v promtool || echo $(VENV)/promtool/usr/bin/promtool); \
	if [[ ! -x $$promtool ]]; then \
	    mkdir -p $(VENV)/promtool; \
	    (cd $(VENV)/promtool && apt-get download --quiet --quiet prometheus && dpkg-deb -x prometheus_*.deb .); \
	fi; \
	$$promtool check rules docs/alerts.yml; \
	$$promtool test rules tests/promtool/alerts_test.yml; \
	$$promtool check metrics <tests/golden/metrics.txt

system: setup
	@if compgen -G 'tests/system/test_*.py' >/dev/null; then \
	    echo "== system tests: each boots its own throw-away kernels"; \
	    $(BIN)/python -m pytest tests/system; \
	fi

catalog: setup
	@$(BIN)/python packaging/catalog.py >systemd/thinpoolmgr.catalog
# The program itself is pip's. What runs at once is told what is new; a package's own folder (DESTDIR) is nothing's.
install:
	@sh packaging/install.sh $(PREFIX) $(DESTDIR)
	@if [[ ! '$(DESTDIR)' && -d /run/systemd/system ]]; then \
	    systemctl daemon-reload; udevadm control --reload; \
	    systemd-tmpfiles --create $(PREFIX)/lib/tmpfiles.d/thinpoolmgr.conf; \
	    echo "Now: systemctl enable --now thinpoolmgr-apply thinpoolmgr-monitor"; \
	fi

man: setup
	@$(BIN)/python packaging/manpage.py >docs/man/thinpoolmgr.1
# compiled first, as an installed package is: the lab sees this folder read-only
bench: setup
	@$(BIN)/python -m compileall -q thinpoolmgr
	@$(BIN)/python bench/startup.py
	@$(BIN)/thinpoolmgr lab run --memory 2500 --timeout 7200 bench/measure.py $(BENCH)

bench-monitor: setup
	@$(BIN)/python -m compileall -q thinpoolmgr
	@$(BIN)/thinpoolmgr lab run --memory 2500 --timeout 21600 bench/reaction.py $(BENCH)

# Whole machines: docs/vagrant.md.
vagrant-box: setup
	@$(BIN)/python vagrant/box/build.py $(if $(BOX),$(BOX),/var/tmp/thinpoolmgr-vagrant/thinpoolmgr.box)

vagrant-test: setup
	@$(BIN)/python vagrant/run.py $(STORIES)

vagrant-clean: setup
	@$(BIN)/python vagrant/run.py --clean

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find thinpoolmgr tests -name __pycache__ -prune -exec rm -rf {} +
