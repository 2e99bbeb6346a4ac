# One command a target; each makes its own environment first. Written for any make: no GNU extensions, POSIX sh.

# Which Python builds the environment, and where it lies: make PYTHON=python3.12 demo
PYTHON ?= python3
VENV ?= .venv
RUN = "$(VENV)/bin/python"

# Where the demo writes (and nowhere else), and further flags for its stages.
DEMO_DIR ?= out/demo
DEMO_TOKENIZER_FLAGS ?=
DEMO_DATA_FLAGS ?=
DEMO_PRETRAIN_FLAGS ?=
DEMO_SFT_FLAGS ?=
DEMO_LORA_FLAGS ?=
DEMO_DPO_FLAGS ?=

# A part of the tests: make test PYTEST_FLAGS="tests/model -k cache"
PYTEST_FLAGS ?=

# Flags for the data benchmarks' inputs: make bench-data BENCH_TEXT_MB=20 (quicker, and no figure to compare with)
BENCH_TEXT_MB ?= 100
BENCH_MEMORY_MB ?= 500 2000
BENCH_ROWS ?= 1000000

# How much the reliability benchmarks do: make bench-reliability BENCH_KILLS=6 BENCH_ROUNDS=1 (quicker)
BENCH_KILLS ?= 30
BENCH_ROUNDS ?= 5
BENCH_DAMAGES ?= 1000

.PHONY: help demo test bench-data bench-reliability lint format clean constraints environment environment-dev

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' Makefile

# A validation or a sample takes as long as some updates: the demo looks at itself less often than is usual. Fine-tuning
# with five rows an update instead of four makes a fifth fewer of them, and learns as much (docs/experiments.md).
demo: environment ## train a small model through every stage on the bundled little world
	$(RUN) data_process.py little_world --raw_dir "$(DEMO_DIR)/raw"
	$(RUN) train_tokenizer.py --raw_dir "$(DEMO_DIR)/raw" --tokenizer "$(DEMO_DIR)/tokenizer" \
		$(DEMO_TOKENIZER_FLAGS)
	$(RUN) data_process.py --raw_dir "$(DEMO_DIR)/raw" --tokenizer "$(DEMO_DIR)/tokenizer" \
		--packed_dir "$(DEMO_DIR)/packed" $(DEMO_DATA_FLAGS)
	$(RUN) 1-pretrain.py --packed_dir "$(DEMO_DIR)/packed" --out_dir "$(DEMO_DIR)" \
		--eval_interval 80 --sample_interval 240 $(DEMO_PRETRAIN_FLAGS)
	$(RUN) 3-full_sft.py --packed_dir "$(DEMO_DIR)/packed" --out_dir "$(DEMO_DIR)" \
		--batch_size 5 --learning_rate 3.3e-3 --eval_interval 160 --sample_interval 480 $(DEMO_SFT_FLAGS)
	$(RUN) 4-lora_sft.py --packed_dir "$(DEMO_DIR)/packed" --out_dir "$(DEMO_DIR)" \
		--eval_interval 80 --sample_interval -1 $(DEMO_LORA_FLAGS)
	$(RUN) 5-dpo_train.py --packed_dir "$(DEMO_DIR)/packed" --out_dir "$(DEMO_DIR)" \
		--eval_interval 16 --sample_interval -1 $(DEMO_DPO_FLAGS)
	$(RUN) -m evaluation.demo_report "$(DEMO_DIR)"

# At most four workers: each holds torch in memory. tests/conftest.py gives each of them one thread.
test: environment-dev ## prove the whole toolkit, the slow tests included
	$(RUN) -m pytest --numprocesses logical --maxprocesses 4 $(PYTEST_FLAGS)

# Ratios are taken in turns in one run, so other work on the machine disturbs them little; the rates it disturbs.
bench-data: environment-dev ## print the figures of the data room: packing, speed, memory, duplicates, reading
	$(RUN) -m benchmarks.packing_efficiency
	$(RUN) -m benchmarks.pack_speed --megabytes $(BENCH_TEXT_MB)
	$(RUN) -m benchmarks.pack_memory --megabytes $(BENCH_MEMORY_MB)
	$(RUN) -m benchmarks.packed_reading
	$(RUN) -m benchmarks.near_duplicates --rows $(BENCH_ROWS)

# make stops at the first that is not within its bound.
bench-reliability: environment-dev ## print the figures of the trainer's promises: splits, kills, spikes, speed, saves
	$(RUN) -m benchmarks.reliability.invariance
	$(RUN) -m benchmarks.reliability.resume --kills $(BENCH_KILLS)
	$(RUN) -m benchmarks.reliability.divergence
	$(RUN) -m benchmarks.reliability.ranks_speed --rounds $(BENCH_ROUNDS)
	$(RUN) -m benchmarks.reliability.save_stall --rounds $(BENCH_ROUNDS)
	$(RUN) -m benchmarks.reliability.damage --flips $(BENCH_DAMAGES) --truncations $(BENCH_DAMAGES)

lint: environment-dev ## check format, style, types and who imports whom
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	"$(VENV)/bin/lint-imports" --no-logo

format: environment-dev ## format the code and mend what ruff can mend
	$(RUN) -m ruff check --fix-only .
	$(RUN) -m ruff format .

clean: ## remove what the tools left behind, never your data and runs
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . \( -name .git -o -name .venv -o -path ./out -o -path ./dataset/raw -o -path ./dataset/packed \) -prune \
		-o -type d -name __pycache__ -exec rm -rf {} +
	@echo "Kept: $(VENV) (the environment), dataset/raw and dataset/packed (your data), out (your runs)."

# The newest versions that the ranges allow; torch stays at the version pinned by hand. What belongs to one kind of
# machine is left out, so that the file serves all: torch's "+cpu" mark, the CUDA packages (torch pins its own).
constraints: ## pin anew, in constraints.txt, what the requirements install today
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; trap 'exit 130' INT TERM; \
	"$(PYTHON)" -m venv "$$folder/venv"; \
	grep '^torch==' constraints.txt > "$$folder/torch.txt"; \
	"$$folder/venv/bin/python" -m pip install --disable-pip-version-check \
		-r requirements.txt -r requirements-dev.txt -c "$$folder/torch.txt"; \
	grep '^#' constraints.txt > "$$folder/new.txt"; \
	"$$folder/venv/bin/python" -m pip list --disable-pip-version-check --format=freeze --exclude pip \
		--exclude wheel > "$$folder/all.txt"; \
	sed 's/+.*//' "$$folder/all.txt" | grep -v -i -E '^(nvidia|cuda|triton)' | LC_ALL=C sort -f \
		>> "$$folder/new.txt"; \
	cp "$$folder/new.txt" constraints.txt

# The environment. A requirements file is installed when its content, or that of constraints.txt, is not what was
# installed last: a stamp in the environment holds the checksum, so a file's date alone installs nothing.
environment:
	@file=requirements.txt; $(INSTALL)

environment-dev: environment
	@file=requirements-dev.txt; $(INSTALL)

INSTALL = set -e; \
	stamp="$(VENV)/.installed-$$file"; \
	wanted=$$(cat "$$file" constraints.txt | cksum); \
	if [ -x "$(VENV)/bin/python" ] && [ "$$(cat "$$stamp" 2> /dev/null)" = "$$wanted" ]; then exit 0; fi; \
	python="$(PYTHON)"; \
	recent='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if [ -e "$(VENV)/bin" ]; then \
		python="$(VENV)/bin/python"; \
		if ! "$$python" -c "$$recent" 2> /dev/null; then \
			echo "error: $(VENV) holds no working Python 3.11 or newer: delete that folder and run this again" >&2; \
			exit 2; \
		fi; \
	elif ! "$$python" -c "$$recent" 2> /dev/null; then \
		echo "error: Seedling needs Python 3.11 or newer, but $$python is: $$("$$python" --version 2>&1 || true)." \
			"Install one and name it, for example: make PYTHON=python3.12 demo" >&2; \
		exit 2; \
	fi; \
	if ! "$(VENV)/bin/python" -m pip --version > /dev/null 2>&1; then \
		echo "Making the environment $(VENV)"; \
		"$$python" -m venv "$(VENV)"; \
	fi; \
	echo "Installing $$file into $(VENV) (once; some minutes)"; \
	"$(VENV)/bin/python" -m pip install --disable-pip-version-check -r "$$file" -c constraints.txt; \
	echo "$$wanted" > "$$stamp"
