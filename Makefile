# fedmq: every target sets up what it needs; a second run installs nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: demo-sensors bench-score zoo mutants jobs fuzz bench-containers bench-algorithms bench-large bench-privacy bench-page help setup demo broker test test-thorough test-container test-upgrade test-brokers test-browser check format lint types imports coverage bench bench-codec simulate simulate-trees chaos soak pictures clean bench-fleet test-frameworks bench-flower bench-hosts

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
SEEDS ?= 2000
MINUTES ?= 10
FRAMES ?= 1000000
MESSAGES ?= 100000
MASKS ?= 10000
TESTS ?=
COMMIT ?=
BROKER_TESTS ?= tests/contract/test_transport.py tests/integration/transport/test_mqtt.py tests/integration/transport/test_mqtt_identity.py tests/integration/roles/test_coordinator.py tests/integration/roles/test_edge_node.py tests/integration/roles/test_recovery.py tests/integration/commands/test_coordinator_doctor.py tests/integration/commands/test_edge_node_doctor.py
# Twice the workers that two cores have: half of the time of a test with real processes is spent waiting.
WORKERS ?= 4
# Without compiled files each worker rewrites every assertion again, and each program compiles all that it imports.
# Several workers share the cores: threads of torch and BLAS would only wait for each other.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest
SETUP := $(shell cat pyproject.toml constraints.txt deploy/hashes.txt deploy/demo.txt deploy/setup.sh compression/update_codec/kernel/kernel.c | cksum | cut -d' ' -f1)
STAMP := $(VENV)/.ready-$(SETUP)
DEMO_STAMP := $(VENV)/.demo-$(SETUP)

# A site is built from text alone: none of what fedmq needs is installed.
DOCS := .venv-docs
DOCS_STAMP := $(DOCS)/.ready-$(shell cksum pyproject.toml | cut -d' ' -f1)

# Their requirements do not go with our pinned ones.
FRAMEWORKS := .venv-frameworks
FRAMEWORKS_STAMP := $(FRAMEWORKS)/.ready-$(shell cksum pyproject.toml | cut -d' ' -f1)
FRAMEWORK_EXTRAS := torch,sklearn,flower,lora,jax,keras,mlflow,wandb,dask,ray

help: ## This list
	@echo "fedmq: asynchronous federated learning over MQTT"
	@echo
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo
	@echo '  make demo ARGS="--task mnist-mlp --nodes 10"   passes options on (make demo ARGS=--help lists them)'

$(STAMP):
	@bash deploy/setup.sh $(VENV)
	@rm -f $(VENV)/.ready-* $(VENV)/.demo-*
	@touch $@

$(DEMO_STAMP):
	@bash deploy/setup.sh $(VENV) demo
	@rm -f $(VENV)/.ready-* $(VENV)/.demo-*
	@touch $@

$(FRAMEWORKS_STAMP):
	@$${PYTHON:-python3} -m venv $(FRAMEWORKS)
	@$(FRAMEWORKS)/bin/pip install -q hatchling editables
	@$(FRAMEWORKS)/bin/pip install -q --no-build-isolation -c <(grep ^torch constraints.txt) -e '.[$(FRAMEWORK_EXTRAS)]' alembic sqlalchemy pandas polars pyarrow opacus dp-accounting hypothesis psutil pytest pytest-timeout pytest-randomly pytest-xdist
	@rm -f $(FRAMEWORKS)/.ready-*
	@touch $@

$(DOCS_STAMP):
	@$${PYTHON:-python3} -m venv $(DOCS)
	@$(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(DOCS)/wanted.txt
	@$(DOCS)/bin/pip install -q -r $(DOCS)/wanted.txt
	@rm -f $(DOCS)/.ready-*
	@touch $@

setup: $(STAMP) ## Create .venv with all pinned dependencies (make demo needs fewer); install Mosquitto where it is missing

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP)) ## The main job: a broker, a coordinator and five nodes that train on handwritten digits
	@PYTHONDONTWRITEBYTECODE= $(BIN)/coordinator demo $(ARGS)

demo-sensors: $(STAMP) ## Twelve pumps whose sensors speak MQTT: nodes take them in, learn together, and score
	@PYTHONDONTWRITEBYTECODE= $(BIN)/coordinator demo-sensors $(ARGS)

.PHONY: docs
docs: $(DOCS_STAMP) ## The documentation as a site in out/site: strict, with search and API, nothing from elsewhere
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "out/site: $$(find out/site -name '*.html' | wc -l) pages; to read and search them: python3 -m http.server -d out/site"

.PHONY: wheels
wheels: $(STAMP) ## Wheels in out/wheels: one for all machines, and for x86_64 and aarch64 with compiled loops (gcc, gcc-aarch64-linux-gnu)
	@mkdir -p out/wheels
	@for machine in "" x86_64 aarch64; do FEDMQ_WHEEL_MACHINE=$$machine $(BIN)/pip --quiet --disable-pip-version-check wheel --no-deps --no-build-isolation -w out/wheels .; done
	@ls out/wheels

.PHONY: deb
deb: $(STAMP) ## Debian packages for amd64 and arm64 in out/deb (ARGS="arm64 --python 3.13"); needs the package index
	@deploy/debian/build.sh $(ARGS)

.PHONY: sbom
sbom: ## What is in the images, as CycloneDX documents in out/sbom (docker or podman; images built)
	@$${PYTHON:-python3} deploy/containers/sbom.py $(ARGS)

broker: ## A Mosquitto container on this machine (docker or podman), until Ctrl-C
	@deploy/containers/broker.sh

test: $(STAMP) ## All tests but the slow campaigns and the thorough ones
	@$(PYTEST) -n $(WORKERS) --dist loadgroup $(if $(TESTS),,-m "not thorough") $(TESTS)

test-thorough: $(STAMP) ## What make test leaves out, and make check has: guides from end to end, bugs planted in simulations
	@$(PYTEST) -n $(WORKERS) --dist loadgroup -m thorough $(TESTS)

zoo: $(STAMP) ## Every shape of model and data, under three codecs and in real processes, against plain torch
	@FEDMQ_ZOO=1 $(PYTEST) -n 2 --dist loadgroup tests/zoo

test-frameworks: $(FRAMEWORKS_STAMP) ## The tests that need other libraries (Flower, PEFT, JAX, Keras, MLflow, W&B, Dask, Ray, pandas, Opacus), in an environment of their own
	@$(FRAMEWORKS)/bin/python -m pytest -W ignore::DeprecationWarning -W ignore::FutureWarning -m frameworks $(or $(TESTS),tests/unit/federation/tasks/adapters tests/unit/federation/tasks/data tests/unit/federation/tasks/training/test_private_sgd.py tests/unit/federation/privacy/test_accountant.py tests/unit/fedmq/api tests/unit/fedmq/new tests/unit/fedmq/simulation/training)

bench-flower: $(FRAMEWORKS_STAMP) ## Flower's quickstart client on Flower and here, in the same run, with its bar (minutes)
	@OMP_NUM_THREADS=1 $(FRAMEWORKS)/bin/python -m benchmarks.flower_client $(ARGS)

test-container: $(STAMP) ## Build the images, run a federation in them, and the integration tests against the broker's
	@FEDMQ_CONTAINER_BUILD=1 $(BIN)/python -m pytest -m container $(TESTS)
	@FEDMQ_TEST_BROKER_IMAGE=$${BROKER_IMAGE:-fedmq-broker} $(BIN)/python -m pytest -m broker $(BROKER_TESTS)

test-upgrade: $(STAMP) ## The release before with this one: protocol, certificates and stores, both ways (COMMIT=…, a minute)
	@FEDMQ_PREVIOUS=$$(bash deploy/previous_release.sh $(COMMIT)) && export FEDMQ_PREVIOUS && \
	  $(BIN)/python -m pytest -m upgrade $(or $(TESTS),tests/integration/roles/test_previous_release.py)

test-brokers: $(STAMP) ## The tests against a second broker, ejabberd; installs it where it is missing (Debian, Ubuntu)
	@bash deploy/setup.sh $(VENV) ejabberd
	@$(BIN)/python -m pytest -m second_broker $(or $(TESTS),tests/integration/transport/test_ejabberd.py)

.PHONY: browser
browser: $(STAMP) ## Headless Chromium for the tests that look at the page, where it is missing (Debian)
	@bash deploy/setup.sh $(VENV) browser

test-browser: browser ## The page in headless Chromium
	@$(BIN)/python -m pytest -m browser $(or $(TESTS),tests/integration/commands/test_page_in_browser.py)

.PHONY: postgresql
postgresql: $(STAMP) ## PostgreSQL for the tests that start one of their own, where it is missing (Debian, Ubuntu)
	@bash deploy/setup.sh $(VENV) postgresql

check: format lint types imports coverage ## All checks: format, lint, types, imports, and every test with coverage

format: $(STAMP)
	@$(BIN)/ruff format --check .

lint: $(STAMP)
	@$(BIN)/ruff check .

types: $(STAMP)
	@$(BIN)/mypy
	@$(BIN)/mypy tests benchmarks

imports: $(STAMP)
	@$(BIN)/lint-imports

# What builds a wheel is loaded by the builder under a name of its own, where coverage does not look.
coverage: $(STAMP) ## The tests, and 100 % branch coverage where the design asks for it
	@rm -f .coverage .coverage.*
	@FEDMQ_EXAMPLES=100 FEDMQ_CAMPAIGN_PARTS=8 FEDMQ_POSTGRES_SEEDS=6 $(PYTEST) -n $(WORKERS) --dist loadgroup --cov --cov-report= $(TESTS)
	@$(BIN)/coverage report --fail-under=100 --show-missing --omit='*/kernel/wheel.py' --include='federation/protocol/*,*/update_codec/*,coordinator/engine/machine.py,coordinator/engine/round.py,coordinator/global_model/aggregation.py,edge_node/engine/machine.py,sum_helper/engine/*'

bench: $(STAMP) ## Every figure with its bar, into docs/reference/performance.md and README.md (half an hour; ARGS="--only main", ARGS=--draw)
	@$(BIN)/python -m benchmarks.performance --write docs/reference --readme README.md $(ARGS)

.PHONY: bench-bytes
bench-bytes: $(STAMP) ## Where the bytes of J1 go, both ways, and how far its updates are from the limit (minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bytes $(ARGS)

bench-codec: $(STAMP) ## The codec's figures beside its peers; ARGS=--system adds whole federations
	@$(BIN)/python -m benchmarks.codec $(ARGS)

fuzz: $(STAMP) ## Mutated frames, extreme messages, masked sums: make fuzz FRAMES=1000000 MESSAGES=100000 MASKS=10000
	@$(BIN)/python -m benchmarks.codec_fuzz --frames $(FRAMES) $(ARGS)
	@FEDMQ_EXTREMES=$(MESSAGES) $(BIN)/python -m pytest -q -p no:cacheprovider tests/hostile/test_extremes.py
	@FEDMQ_MASK_CASES=$(MASKS) $(BIN)/python -m pytest -q -p no:cacheprovider --timeout 7200 -k "masked_sum" tests/unit/update_codec/test_masking.py tests/unit/federation/privacy/test_seeds.py

bench-algorithms: $(STAMP) ## Strategies, robust rules and asynchronous rounds, with their bars (minutes)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.algorithms $(ARGS)

jobs: $(STAMP) ## The reference jobs with their bars; writes docs/reference/jobs.md (many minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.jobs --write docs/reference/jobs.md $(ARGS)

bench-large: $(STAMP) ## Models of 47 and 100 MB through a real broker: memory, throughput, cuts, kills (minutes)
	@$(BIN)/python -m benchmarks.large_models $(ARGS)

.PHONY: bench-load
bench-load: $(STAMP) ## A fleet of thousands on this machine: updates, CPU, memory, deliveries (ARGS=--nodes 10000)
	@$(BIN)/python -m benchmarks.load $(ARGS)

.PHONY: bench-failover
bench-failover: $(STAMP) ## Leaders killed and stopped on PostgreSQL: seconds until the next one, and the audit (minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.failover $(ARGS)

.PHONY: bench-drift
bench-drift: $(STAMP) ## A sensor of another scale: versions until scores are right again, with live data and without
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.drift $(ARGS)

.PHONY: bench-ingest
bench-ingest: $(STAMP) ## Sensors' readings: rate on one core, loss under SIGKILL, flash written a day (ARGS="--speed 1 --minutes 60")
	@$(BIN)/python -m benchmarks.ingest $(ARGS)

bench-fleet: $(STAMP) ## Updates per second with certificates, access rules and signatures, over without (minutes)
	@$(BIN)/python -m benchmarks.fleet $(ARGS)

mutants: $(STAMP) ## Planted bugs: does a test or a campaign catch each? Half an hour; ARGS="--only lease"
	@$(BIN)/python -m benchmarks.mutants $(ARGS)

bench-score: $(STAMP) ## From a row to its score while the same device trains: p50 and p99, with the bar
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.score_latency $(ARGS)

bench-privacy: $(STAMP) ## What masks, noise and sealing cost and keep, with their bars (minutes)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.privacy $(ARGS)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.privacy.sealing

bench-hosts: $(STAMP) ## Five bare devices and a server by the commands of the guide, until all have trained (minutes)
	@$(BIN)/python -m benchmarks.five_hosts $(ARGS)

bench-page: $(STAMP) ## Bytes, memory and processor time of the page, also with 10,000 nodes and versions (minutes)
	@$(BIN)/python -m benchmarks.page $(ARGS)

.PHONY: bench-commands
bench-commands: $(STAMP) ## Processor time of the commands that only look, on a run of 100,000 updates, with the bar
	@$(BIN)/python -m benchmarks.commands $(ARGS)

bench-containers: $(STAMP) ## Sizes of the images, and compose up to the first version (docker or podman; images built)
	@$(BIN)/python -m benchmarks.containers $(ARGS)

simulate: $(STAMP) ## Both machines under seeded faults: make simulate SEEDS=2000, by night SEEDS=20000
	@$(BIN)/python -m fedmq.simulation.protocol.campaign --seeds $(SEEDS) $(ARGS)

simulate-trees: $(STAMP) ## Federations through gateways under seeded faults, each held against a flat one: SEEDS=2000
	@$(BIN)/python -m fedmq.simulation.tree.campaign --seeds $(SEEDS) $(ARGS)

chaos: $(STAMP) ## Real processes under every fault, then an audit: the closing table (ten minutes; ARGS="--scale 0.1", "--privacy")
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

soak: $(STAMP) ## Twenty nodes under 1 % faults: does the memory stay flat? make soak MINUTES=10
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(ARGS)

pictures: $(STAMP) ## The pictures in docs/pictures, drawn from a demo
	@rm -rf out/pictures
	@$(BIN)/coordinator demo --plot out/pictures --report out/pictures/demo.json --keep out/pictures/demo
	@$(BIN)/coordinator plot out/pictures/demo.json -o out/pictures --dark >/dev/null
	@mkdir -p docs/pictures
	@cp $(addprefix out/pictures/,story.png story.svg story-dark.png story-dark.svg learning.png participation.png) docs/pictures/

clean: ## Remove .venv and caches
	@rm -rf $(VENV) $(FRAMEWORKS) $(DOCS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* out
