# Every target runs in a checkout as it is: the environment is made on first use.
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# more options for a run: make demo ARGS="--model.lr 3e-4"
ARGS :=
# where the demo's run lies: a new folder each time
DEMO := runs/demo/$(shell date +%Y%m%d-%H%M%S)

# of a table: make table2 PROFILE=smoke LAUNCHER=ray JOBS=4
PROFILE := laptop
LAUNCHER := local
JOBS :=

TASKS := bit-xor bit-memory listops mnist cifar cifar-lra remote-homology
# the entries of experiments.yaml
TABLES := table1 table2 lstm table6 table7 table8 table9 table10 table11 table12 table13 table14 table15 table16 \
	table17 table21 attention fair pocket controls carries minilm smollm architectures later where parts scarce luck
BENCHMARKS := cost data features gpu halving lstm pack pretraining repeat sweep
# two processes of one thread each on 2 cores; make test ARGS="-n 0" for a single one
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format benchmark docs wheel clean $(TASKS) $(TABLES) \
	$(addprefix benchmark-,$(BENCHMARKS))

help:  ## this page
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@printf '\nthe small random transformer on a task, its data fetched, generated, or in ARGS="--data.root FOLDER":\n'
	@printf '  make %s\n' $(TASKS)
	@printf '\na table of a paper, or of ours, with PROFILE=smoke, laptop (default), atlas, night or paper; `fpt sweep` says what each is:\n'
	@printf '  make %s\n' $(TABLES)
	@printf '\nother benchmarks:\n'
	@printf '  make benchmark-%s\n' $(BENCHMARKS)

install: $(INSTALLED)  ## make the environment in .venv

# bytecode is compiled once here: without it every start of python reads torch from source
$(INSTALLED): pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable . --group dev
	@touch $@

demo: $(INSTALLED)  ## freeze the language model pocket, train it on bit-xor, draw what it looks at (a minute on 2 cores)
	$(BIN)/fpt run --config bit_xor.yaml --config backbones/pocket.yaml --trainer.max_steps 1000 \
		--run_folder $(DEMO) $(ARGS)
	$(BIN)/fpt attention $(DEMO)

$(TASKS): $(INSTALLED)
	$(BIN)/fpt run --config $(subst -,_,$@).yaml $(ARGS)

# the report comes also where some runs failed, which the status then says
$(TABLES): $(INSTALLED)
	$(BIN)/fpt sweep $@ --profile $(PROFILE) --launcher $(LAUNCHER) $(if $(JOBS),--jobs $(JOBS)) $(ARGS); status=$$?; \
	$(BIN)/fpt report $@ --profile $(PROFILE) $(ARGS) && exit $$status

test: $(INSTALLED)  ## the tests that take seconds
	$(PYTEST) $(ARGS)

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(PYTEST) -m slow $(ARGS)

lint: $(INSTALLED)  ## ruff and mypy, as pre-commit runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(INSTALLED)  ## steps a second beside a plain baseline, on this machine
	$(BIN)/python benchmarks/train_step.py $(ARGS)

$(addprefix benchmark-,$(BENCHMARKS)): benchmark-%: $(INSTALLED)
	$(BIN)/python benchmarks/$*.py $(ARGS)

# Material's notice of its own future is no warning of ours
docs: $(INSTALLED)  ## the site with the API reference, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

wheel: $(INSTALLED)  ## build dist/*.whl
	$(BIN)/python -m build --wheel --installer uv $(ARGS)

clean:  ## remove the environment and what tools leave behind; runs and data stay
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
