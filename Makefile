# Bare `make` lists the commands. PYTHON chooses the interpreter of the virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
PREFECT_VENV := .venv-prefect
PREFECT_STAMP := $(PREFECT_VENV)/.complete
N ?= 3
ROWS ?= 1000000
JOBS ?= 3
CHECKED := $(wildcard app workers core flows scripts benchmarks tests config*.py web_app.py)

.DEFAULT_GOAL := help
.SILENT:
MAKEFLAGS += --no-print-directory
.PHONY: help run test test-rq test-prefect prefect-setup prefect-server check model bench bench-peers bench-window bench-transfer bench-beside bench-import bench-records bench-fan-out soak verify-proof record-migration lock check-manifests setup-dev setup-staging setup-prod list-config start-workers run-distributed run-flow deploy-flows clean

help: ## list these commands
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(STAMP) ## start the web app with its workers on http://127.0.0.1:8000
	$(BIN)/python web_app.py

test: $(STAMP) ## run every test against private servers (installs missing ones; JOBS=1 for one by one)
	scripts/install_test_servers.sh
	$(BIN)/python -m pytest -n $(JOBS) -m "not prefect"

test-rq: $(STAMP) ## run RQ's own worker tests against our worker class (downloads RQ's sdist)
	$(BIN)/python -m tests.rq_suite

test-prefect: $(STAMP) ## run the ETL by a private Prefect server and its worker (after make prefect-setup)
	if [ -e $(PREFECT_STAMP) ]; then scripts/install_test_servers.sh && \
		$(BIN)/python -m pytest -n 0 -v -m prefect --durations=0 --durations-min=0.5 tests/on_prefect; \
	else echo "Skipped: Prefect is not installed. make prefect-setup installs it."; fi

check: $(STAMP) ## lint, check formatting and types, run the unit tests; no servers
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/python -m pytest -q tests/unit & units=$$!; \
	types=$$($(BIN)/mypy --no-error-summary $(CHECKED) 2>&1) || failed=1; \
	wait $$units || failed=1; \
	[ -z "$$types" ] || echo "$$types"; \
	exit $${failed:-0}

model: $(STAMP) ## search every reachable state of the protocol's model, and try its mutants
	$(BIN)/python -m tests.model --traces

bench: $(STAMP) ## measure this and other task systems (ROUNDS=1 QUICK=1 ONLY=drain SERIES=maria,rq)
	$(BIN)/python -m benchmarks $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(QUICK),--quick) \
		$(if $(ONLY),--only $(ONLY)) $(if $(SERIES),--series "$(SERIES)")

bench-peers: ## install the other task systems that `make bench` compares with, in .venv-bench
	$(PYTHON) -m venv .venv-bench
	$(PYTHON) -c "import tomllib; \
		print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['bench'], sep='\n')" \
		| .venv-bench/bin/python -m pip install -qq --disable-pip-version-check -r /dev/stdin
	echo "make bench measures the peers now, too."

bench-window: $(STAMP) ## measure a backlog of ROWS far beyond the ticket window (ROWS=10000000)
	$(BIN)/python -m benchmarks.window --rows $(ROWS)

bench-transfer: $(STAMP) ## measure a backlog of ROWS moved to Redis and back, beside two other ways (ROWS=200000)
	$(BIN)/python -m benchmarks.transfer --rows $(ROWS)

bench-beside: $(STAMP) ## measure what submissions take while a backlog moves beside them
	$(BIN)/python -m benchmarks.beside

bench-import: $(STAMP) ## import a legacy queue of ROWS that is in use, in both shapes, and judge it row by row (ROWS=200000, DATABASE, THEIRS)
	scripts/install_test_servers.sh
	$(BIN)/python -m tests.imports $(if $(filter command line,$(origin ROWS)),--rows $(ROWS)) \
		$(if $(DATABASE),--database $(DATABASE)) $(if $(THEIRS),--theirs $(THEIRS))

bench-records: $(STAMP) ## measure records per second by processes, beside the naive way, and by batch size (ONLY=sizes)
	$(BIN)/python -m benchmarks.records $(if $(ONLY),--only $(ONLY))

bench-fan-out: $(STAMP) ## measure 20 tables with 1, 3, 5 and 10 workers, and limits of tag and pool (ROUNDS, DOCS=1)
	scripts/install_test_servers.sh
	$(BIN)/python -m benchmarks.fan_out $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(DOCS),--docs)

soak: $(STAMP) ## kill, freeze and empty everything at every step (ROUNDS, MINUTES, ONLY=kills,transfer, ...)
	scripts/install_test_servers.sh
	$(BIN)/python -m tests.soak $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(FAULTS),--faults $(FAULTS)) \
		$(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) \
		$(if $(DATABASES),--databases $(DATABASES)) $(if $(ONLY),--only $(ONLY)) $(if $(DOCS),--docs)

verify-proof: $(STAMP) ## plant 1,000 faults that the verifier must find, and verify a live system (ROWS, RUNS, SEED, DOCS)
	scripts/install_test_servers.sh
	$(BIN)/python -m tests.proof $(if $(filter command line,$(origin ROWS)),--rows $(ROWS)) \
		$(if $(FAULTS),--faults $(FAULTS)) $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(DOCS),--docs)

record-migration: $(STAMP) ## record a whole migration and its rollback, as text and as pictures, in docs/deployment
	scripts/install_test_servers.sh
	$(BIN)/python docs/record_migration.py

lock: $(STAMP) ## pin every dependency anew, with hashes, in all three lock files
	env -u UV_INDEX -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS $(BIN)/uv pip compile pyproject.toml \
		--no-config --universal --upgrade --extra dev --generate-hashes --no-emit-index-url \
		--no-emit-find-links --custom-compile-command "make lock" --quiet -o requirements.lock
	env -u UV_INDEX -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS $(BIN)/uv pip compile pyproject.toml \
		--no-config --universal --constraint requirements.lock --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --custom-compile-command "make lock" --quiet \
		-o deploy/requirements.lock
	env -u UV_INDEX -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS $(BIN)/uv pip compile pyproject.toml \
		--no-config --universal --upgrade --extra prefect --generate-hashes --no-emit-index-url \
		--no-emit-find-links --custom-compile-command "make lock" --quiet -o requirements-prefect.lock
	echo "All three lock files are up to date."

check-manifests: $(STAMP) ## hold deploy/ against the schemas of Kubernetes and Compose (downloads two validators)
	$(BIN)/uv tool run --quiet kubernetes-validate@1.37.0 --strict deploy/kubernetes/settings.yaml \
		deploy/kubernetes/web.yaml deploy/kubernetes/workers.yaml deploy/kubernetes/records.yaml
	$(BIN)/uv tool run --quiet check-jsonschema@0.39.0 --builtin-schema vendor.compose-spec deploy/compose.yaml

setup-dev: $(STAMP) ## write .env for development (FORCE=1 replaces an existing one)
	$(BIN)/python scripts/write_env.py development $(if $(FORCE),--force)

setup-staging: $(STAMP) ## write .env for staging, with random tokens
	$(BIN)/python scripts/write_env.py staging $(if $(FORCE),--force)

setup-prod: $(STAMP) ## write .env for production, with random tokens
	$(BIN)/python scripts/write_env.py production $(if $(FORCE),--force)

list-config: $(STAMP) ## show every setting, its value and where it came from
	$(BIN)/python -m config

start-workers: $(STAMP) ## start N workers, of a pool if one is named (make start-workers N=3 POOL=etl)
	$(BIN)/python scripts/start_workers.py --workers $(N) $(if $(POOL),--pool $(POOL))

run-distributed: $(STAMP) ## process a sample of 1,000 survey responses by N processes (make run-distributed N=3)
	$(BIN)/python -m flows.survey.workflow --populate-only
	$(BIN)/python scripts/process_flow.py survey --module flows.survey.workflow --processes $(N)

run-flow: $(STAMP) ## copy and compare the tables of a sample, as an ETL in one process
	$(BIN)/python -m flows.etl prepare
	$(BIN)/python flows/prefect_flow.py

deploy-flows: $(STAMP) ## store the deployments of the ETL; workers need TASK_MODULES=app.handlers,flows.etl
	TASK_MODULES="$${TASK_MODULES:-app.handlers,flows.etl}" $(BIN)/python flows/prefect_flow-worker-flow.py deploy

prefect-setup: $(PREFECT_STAMP) ## install Prefect, an extra, in an environment of its own: .venv-prefect
	echo "Prefect is in $(PREFECT_VENV): docs/fan-out.md says how to go on."

prefect-server: $(PREFECT_STAMP) ## start a Prefect server on this machine, with its data in var/prefect (PORT=4200)
	$(PREFECT_VENV)/bin/python -m flows.etl.prefect_server $(if $(PORT),--port $(PORT))

clean: ## remove the virtual environment and caches; keeps var/ and .env
	rm -rf $(VENV) $(PREFECT_VENV) .venv-bench build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.lock pyproject.toml scripts/make_venv.sh
	PYTHON="$(PYTHON)" scripts/make_venv.sh $(VENV)
	touch $@

# By uv, which takes seconds where pip takes a minute.
$(PREFECT_STAMP): requirements-prefect.lock pyproject.toml | $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(PREFECT_VENV)
	$(BIN)/uv pip install --quiet --python $(PREFECT_VENV) --require-hashes -r requirements-prefect.lock
	$(BIN)/uv pip install --quiet --python $(PREFECT_VENV) --no-build-isolation --no-deps \
		--config-settings editable_mode=compat --editable .
	touch $@
