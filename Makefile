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

.DEFAULT_GOAL := help
.PHONY: help install demo bit-xor bit-memory listops mnist cifar cifar-lra remote-homology test test-slow lint format \
	benchmark benchmark-data benchmark-lstm benchmark-pretraining benchmark-sweep wheel clean \
	table1 table2 lstm table6 table7 table8 table9 table10 table11 table12 table13 table14 table15 \
	table16 table17 table21 attention fair pocket controls

help:  ## this page
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-22s %s\n", $$1, $$2}'

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

# the report of a table comes also where some of its runs failed, which the status then says
define table
$(BIN)/fpt sweep $@ --profile $(PROFILE) --launcher $(LAUNCHER) $(if $(JOBS),--jobs $(JOBS)) $(ARGS); status=$$?; \
$(BIN)/fpt report $@ --profile $(PROFILE) $(ARGS) && exit $$status
endef

table1: $(INSTALLED)  ## frozen, fully trained, LSTM (FPT table 1)
	$(table)

table2: $(INSTALLED)  ## pretraining modality (FPT table 2)
	$(table)

lstm: $(INSTALLED)  ## random transformer and random LSTMs (FPT section 3.3)
	$(table)

table6: $(INSTALLED)  ## steps to convergence (FPT table 6)
	$(table)

table7: $(INSTALLED)  ## underfitting and overfitting (FPT table 7)
	$(table)

table8: $(INSTALLED)  ## model size (FPT table 8)
	$(table)

table9: $(INSTALLED)  ## initialisation (FPT table 9)
	$(table)

table10: $(INSTALLED)  ## only the output layer trains (FPT table 10)
	$(table)

table11: $(INSTALLED)  ## depth, output and layer norm train (FPT table 11)
	$(table)

table12: $(INSTALLED)  ## depth, only the output layer trains (FPT table 12)
	$(table)

table13: $(INSTALLED)  ## training more (FPT table 13)
	$(table)

table14: $(INSTALLED)  ## training more, one attention layer (FPT table 14)
	$(table)

table15: $(INSTALLED)  ## trained parts one by one (FPT tables 15 and 19)
	$(table)

table16: $(INSTALLED)  ## layer norm frozen and trained (FPT table 16)
	$(table)

table17: $(INSTALLED)  ## other backbones (FPT table 17)
	$(table)

table21: $(INSTALLED)  ## trained parts one by one, random (FPT table 21)
	$(table)

attention: $(INSTALLED)  ## attention maps (FPT section 3.5)
	$(table)

fair: $(INSTALLED)  ## frozen and unfrozen, a learning rate for every arm (Rothermel et al. 2021)
	$(table)

pocket: $(INSTALLED)  ## pretrained, random, statistics only, likewise
	$(table)

controls: $(INSTALLED)  ## controls without a backbone (Tan et al. 2024)
	$(table)

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

benchmark-sweep: $(INSTALLED)  ## what a sweep costs beside its runs, and how fast fpt status and fpt report are
	$(BIN)/python benchmarks/sweep.py $(ARGS)

wheel: $(INSTALLED)  ## build dist/*.whl
	$(BIN)/python -m build --wheel --installer uv $(ARGS)

clean:  ## remove the environment and what tools leave behind; runs and data stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
