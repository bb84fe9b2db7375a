# One target per job; `make help` lists them. Whatever a target needs and does not find, it makes.
PYTHON ?= python3
PY := .venv/bin/python
BACKBONE =
MASK =
DATA = demo
EXPERIMENT =
ARGS =
MANIFEST = data/demo/manifest.csv
OUT = shards/demo
RUN = $(shell ls -td runs/*/ 2>/dev/null | head -n 1)
CHECKPOINT = $(shell ls -t runs/*/checkpoints/best.ckpt 2>/dev/null | head -n 1)

data-is-demo := $(filter demo,$(DATA))
shards := $(if $(data-is-demo),shards/demo,$(DATA))
choices := $(if $(BACKBONE),backbone=$(BACKBONE)) $(if $(MASK),mask=$(MASK)) $(if $(EXPERIMENT),experiment=$(EXPERIMENT)) \
	$(if $(data-is-demo),data=demo,data=shards 'data.shards=$(DATA)')

.PHONY: help setup demo train evaluate table prepare report test lint bench
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo
	@echo 'make train BACKBONE=conv|resnet|se|inception [MASK=fixed|learned|none] [DATA=demo|DIR of shards]'
	@echo '           [EXPERIMENT=demo|icassp2020] [ARGS="key=value ..."]   (keys: $(PY) -m disentangled_ml.train --help)'

setup: .venv/ready ## make the virtual environment .venv

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo 'Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: shards/demo/index.json ## make the demo corpus and its shards

data/demo/manifest.csv: | .venv/ready
	$(PY) -m disentangled_ml.demo out=data/demo

shards/demo/index.json: data/demo/manifest.csv
	$(PY) -m disentangled_ml.prepare manifest=$< out=$(@D)

train: .venv/ready $(if $(data-is-demo),shards/demo/index.json) ## train a network on DATA and test it
	$(PY) -m disentangled_ml.train $(choices) $(ARGS)

evaluate: .venv/ready $(if $(data-is-demo),shards/demo/index.json) ## evaluate CHECKPOINT (the newest; trained when missing) on DATA or its own shards
	$(if $(CHECKPOINT),,$(MAKE) train DATA='$(DATA)')
	$(PY) -m disentangled_ml.evaluate "checkpoint=$(or $(CHECKPOINT),$$(ls -t runs/*/checkpoints/best.ckpt | head -n 1))" \
		$(if $(filter file,$(origin DATA)),,'shards=$(shards)') $(ARGS)

table: .venv/ready $(if $(data-is-demo),shards/demo/index.json) ## train and compare all systems of the paper on DATA
	$(PY) -m disentangled_ml.table 'shards=$(shards)' $(ARGS)

prepare: .venv/ready $(if $(filter data/demo/manifest.csv,$(MANIFEST)),data/demo/manifest.csv) ## turn MANIFEST and its recordings into shards in OUT
	$(PY) -m disentangled_ml.prepare 'manifest=$(MANIFEST)' 'out=$(OUT)' $(ARGS)

report: .venv/ready ## make one HTML page of RUN (the newest run; trained when missing), with the sound of MANIFEST if given
	$(if $(RUN),,$(MAKE) train DATA='$(DATA)')
	$(PY) -m disentangled_ml.html_report "run=$(or $(RUN),$$(ls -td runs/*/ | head -n 1))" \
		$(if $(filter-out file,$(origin MANIFEST)),'manifest=$(MANIFEST)') $(ARGS)

test: .venv/ready ## run all tests
	$(PY) -m pytest $(ARGS)

lint: .venv/ready ## check style and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: .venv/ready shards/demo/index.json ## measure speed against peers
	$(PY) -m benchmarks.run $(ARGS)
