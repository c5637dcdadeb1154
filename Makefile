# Every target runs in a checkout as it is: the environment is made on first use.
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# more options for a run: make demo ARGS="--model.lr 3e-4"
ARGS :=
# where the demo's run lies: a new folder each time
DEMO := runs/demo/$(shell date +%Y%m%d-%H%M%S)

.DEFAULT_GOAL := help
.PHONY: help install demo bit-xor bit-memory listops mnist cifar cifar-lra remote-homology test test-slow lint format \
	benchmark benchmark-data benchmark-lstm benchmark-pretraining benchmark-sweep wheel clean

help:  ## this page
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-22s %s\n", $$1, $$2}'

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
	$(BIN)/fpt attention --checkpoint $(DEMO)

bit-xor: $(INSTALLED)  ## bit-xor on the small random transformer
	$(BIN)/fpt run --config bit_xor.yaml $(ARGS)

bit-memory: $(INSTALLED)  ## bit-memory on the small random transformer
	$(BIN)/fpt run --config bit_memory.yaml $(ARGS)

listops: $(INSTALLED)  ## ListOps on the small random transformer; generates it once
	$(BIN)/fpt run --config listops.yaml $(ARGS)

mnist: $(INSTALLED)  ## MNIST on the small random transformer; fetches it, or ARGS="--data.root FOLDER"
	$(BIN)/fpt run --config mnist.yaml $(ARGS)

cifar: $(INSTALLED)  ## CIFAR-10 in colour, likewise
	$(BIN)/fpt run --config cifar.yaml $(ARGS)

cifar-lra: $(INSTALLED)  ## CIFAR-10 in grey, a pixel a token, likewise
	$(BIN)/fpt run --config cifar_lra.yaml $(ARGS)

remote-homology: $(INSTALLED)  ## remote homology of proteins, likewise
	$(BIN)/fpt run --config remote_homology.yaml $(ARGS)

test: $(INSTALLED)  ## the tests that take seconds
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(INSTALLED)  ## ruff and mypy, as pre-commit runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(INSTALLED)  ## steps a second beside a plain baseline, on this machine
	$(BIN)/python benchmarks/train_step.py $(ARGS)

benchmark-data: $(INSTALLED)  ## samples a second of every task; ARGS="--root mnist=FOLDER ..." for those with files
	$(BIN)/python benchmarks/data.py $(ARGS)

benchmark-lstm: $(INSTALLED)  ## the fused LSTM beside loops over time
	$(BIN)/python benchmarks/lstm.py $(ARGS)

benchmark-pretraining: $(INSTALLED)  ## tokens a second of making a backbone
	$(BIN)/python benchmarks/pretraining.py $(ARGS)

benchmark-sweep: $(INSTALLED)  ## what a sweep costs beside its runs, and how fast fpt status is
	$(BIN)/python benchmarks/sweep.py $(ARGS)

wheel: $(INSTALLED)  ## build dist/*.whl
	$(BIN)/python -m build --wheel --installer uv $(ARGS)

clean:  ## remove the environment and what tools leave behind; runs and data stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
