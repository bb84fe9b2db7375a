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
SWEEP = random
SWEEP_ID =
COUNT =
# One more than cores, as some tests wait
TEST_JOBS := $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 7 ? n + 1 : 8)))
RUN = $(shell ls -td runs/*/ 2>/dev/null | head -n 1)
# Of `make slurm`
JOB = train
NODES = 1
GPUS = 1
CPUS = 8
TIME = 24:00:00
PARTS = 40
NAME := $(or $(EXPERIMENT),$(BACKBONE),$(JOB))-$(shell date +%Y%m%d-%H%M%S)
SBATCH =
# Of `make music`
MUSIC =
# Of `make embed` and `make search`
LIKE =
WEIGHTS =
CHECKPOINT = $(shell ls -t runs/*/checkpoints/best.ckpt 2>/dev/null | head -n 1)

data-is-demo := $(filter demo,$(DATA))
named := $(filter-out shards,$(if $(wildcard conf/data/$(DATA).yaml),$(DATA)))
corpus := $(filter-out demo,$(named))
shards := $(if $(named),$(shell sed -n 's/^shards: *\([^ ]*\).*/\1/p' conf/data/$(DATA).yaml),$(DATA))
demo-manifest := $(if $(corpus),,$(filter data/demo/manifest.csv,$(MANIFEST)))
choices := $(if $(BACKBONE),backbone=$(BACKBONE)) $(if $(MASK),mask=$(MASK)) $(if $(EXPERIMENT),experiment=$(EXPERIMENT)) \
	$(if $(named),data=$(DATA),data=shards 'data.shards=$(DATA)')

own-out := $(and $(corpus),$(filter file,$(origin OUT)))
prepared = $(if $(corpus),data=$(DATA),'manifest=$(MANIFEST)') $(if $(own-out),,'out=$(OUT)')
from-manifest := $(filter file,$(origin DATA))
INDEX = indexes/$(notdir $(if $(from-manifest),$(patsubst %/,%,$(dir $(MANIFEST))),$(shards)))
# What INDEX must be of, unless it alone is given
source = $(if $(from-manifest),$(MANIFEST),$(shards))
embedded = $(if $(from-manifest),'manifest=$(MANIFEST)','shards=$(shards)') 'out=$(INDEX)'
to-embed := $(if $(from-manifest),$(demo-manifest),$(if $(data-is-demo),shards/demo/index.json))
is-any := $(and $(filter-out file,$(origin INDEX)),$(from-manifest),$(filter file,$(origin MANIFEST)))
given = $(if $(filter-out file,$(origin CHECKPOINT)),$(CHECKPOINT))
given-checkpoint = $(if $(given),'checkpoint=$(given)')
# The newest run on the demo; of other music the newest on what INDEX is named after, else the newest of all
is-demo := $(if $(from-manifest),$(demo-manifest),$(data-is-demo))
its-runs = $(if $(is-demo),runs/demo-*,runs/$(notdir $(INDEX))-* runs/*)
its-newest = { $(foreach runs,$(its-runs),ls -t $(runs)/checkpoints/best.ckpt;) } 2>/dev/null | head -n 1
of-source = $(if $(is-any),,'source=$(source)')
out-logs = $(if $(own-out),$(shards),$(OUT))/slurm
tasks = $(or $(filter-out 0,$(GPUS)),1)
# pip's output goes to a log, and to the screen if it fails. Of musicnn only the networks' weights are used: it comes without what
# its metadata asks for, TensorFlow and an old NumPy.
pip-install = $(PY) -m pip install --disable-pip-version-check --constraint constraints.txt
define install
@echo 'installing into .venv, which takes some minutes (log: .venv/install.log)'
@{ $(pip-install) --editable '.[$(EXTRAS)]' && $(pip-install) --no-deps musicnn; } >.venv/install.log 2>&1 || \
	{ cat .venv/install.log >&2; exit 1; }
endef

submit = sbatch --parsable --cpus-per-task=$(CPUS) --time='$(TIME)'
# A job array that makes the parts, and a job that merges them: $(call submit-parts,TEMPLATE,folder of the logs,options of the array,arguments)
define submit-parts
@mkdir -p '$(2)'
parts=$$($(submit) --job-name='$(NAME)' --output='$(2)/%A_%a.log' --array=1-$(PARTS) $(3) \
	$(SBATCH) conf/slurm/$(1).sbatch $(4) $(ARGS)) && \
$(submit) --job-name='$(NAME)-merge' --output='$(2)/%j.log' \
	--dependency=afterok:$${parts%%;*} --kill-on-invalid-dep=yes \
	$(SBATCH) conf/slurm/$(1).sbatch $(4) $(ARGS)
endef


.PHONY: help setup music demo train evaluate table sweep agent prepare report embed search serve slurm slurm-train slurm-prepare slurm-embed test test-slurm lint bench
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo
	@echo 'make train BACKBONE=conv|resnet|se|inception|musicnn [MASK=fixed|learned|none] [DATA=demo|msd|mtg_jamendo|'
	@echo '           magnatagatune|DIR of shards] [EXPERIMENT=demo|icassp2020|small_catalogue] [ARGS="key=value ..."]'
	@echo '           (keys: .venv/bin/disentangled train --help)'
	@echo 'make sweep SWEEP=grid|random|bayes [DATA=... and the rest as for train], make agent SWEEP_ID=... [COUNT=runs]   (docs/sweeps.md)'
	@echo 'make slurm [JOB=train] [NODES=1] [GPUS=1 per node, 0: a CPU task] [what `make train` takes]'
	@echo 'make slurm JOB=prepare [PARTS=40] [what `make prepare` takes]'
	@echo 'make slurm JOB=embed [PARTS=40] [GPUS=1 for each part, 0: CPUs alone] [what `make embed` takes]'
	@echo '           for all: [CPUS=8 per task] [TIME=24:00:00] [NAME=of the job] [SBATCH="--partition=... --account=..."]'

setup: .venv/ready ## make the virtual environment .venv

.venv/ready: EXTRAS = dev
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo 'Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(install)
	@touch $@

music: .venv/ready ## find, analyse and embed the music in the folder MUSIC, and serve a page to search it: docs/music.md
	@test -n '$(MUSIC)' || { echo 'MUSIC is missing: make music MUSIC=DIR, the folder of your music' >&2; exit 1; }
	$(PY) -m disentangled_ml music 'music=$(MUSIC)' $(ARGS)

demo: shards/demo/index.json ## make the demo corpus and its shards

data/demo/manifest.csv: | .venv/ready
	$(PY) -m disentangled_ml demo out=data/demo

shards/demo/index.json: data/demo/manifest.csv
	$(PY) -m disentangled_ml prepare manifest=$< out=$(@D)

train: .venv/ready $(if $(data-is-demo),shards/demo/index.json) ## train a network on DATA and test it
	$(PY) -m disentangled_ml train $(choices) $(ARGS)

evaluate: .venv/ready $(if $(data-is-demo),shards/demo/index.json) ## evaluate CHECKPOINT (the newest; trained when missing) on DATA or its own shards
	$(if $(CHECKPOINT),,$(MAKE) train DATA='$(DATA)')
	$(PY) -m disentangled_ml evaluate "checkpoint=$(or $(CHECKPOINT),$$(ls -t runs/*/checkpoints/best.ckpt | head -n 1))" \
		$(if $(filter file,$(origin DATA)),,'shards=$(shards)') $(ARGS)

table: .venv/ready $(if $(data-is-demo),shards/demo/index.json) ## train and compare all systems of the paper on DATA
	$(PY) -m disentangled_ml table 'shards=$(shards)' $(ARGS)

prepare: .venv/ready $(demo-manifest) ## turn MANIFEST and its recordings into shards in OUT, or the data set DATA, whose corpus.* keys are in ARGS
	$(PY) -m disentangled_ml prepare $(prepared) $(ARGS)

# What holds for all runs goes before the last line of the file, the sweep's own parameters.
sweep: .venv/ready $(if $(data-is-demo),shards/demo/index.json) ## create a W&B sweep over conf/sweep/SWEEP.yaml on DATA; it prints the SWEEP_ID
	@test -f 'conf/sweep/$(SWEEP).yaml' || { echo 'SWEEP=$(SWEEP) is unknown: choose one of' $(basename $(notdir $(wildcard conf/sweep/*.yaml))) >&2; exit 1; }
	{ sed '$$d' 'conf/sweep/$(SWEEP).yaml' && printf "  - '%s'\n" $(choices) $(ARGS) && tail -n 1 'conf/sweep/$(SWEEP).yaml'; } | \
		$(PY) -m wandb sweep /dev/stdin

# A run that hyperband stops counts as failed for an agent, which would give up after five of them at its start.
agent: .venv/ready $(if $(SWEEP_ID),$(if $(data-is-demo),shards/demo/index.json)) ## run a W&B agent for the sweep SWEEP_ID, until its end or for COUNT runs
	@test -n '$(SWEEP_ID)' || { echo 'SWEEP_ID is missing: make agent SWEEP_ID=ENTITY/PROJECT/ID, as make sweep prints' >&2; exit 1; }
	PATH="$(abspath $(dir $(PY))):$$PATH" WANDB_AGENT_MAX_INITIAL_FAILURES="$${WANDB_AGENT_MAX_INITIAL_FAILURES:-20}" \
		$(PY) -m wandb agent $(if $(COUNT),--count '$(COUNT)') '$(SWEEP_ID)'

report: .venv/ready ## make one HTML page of RUN (the newest run; trained when missing), with the sound of MANIFEST if given
	$(if $(RUN),,$(MAKE) train DATA='$(DATA)')
	$(PY) -m disentangled_ml html_report "run=$(or $(RUN),$$(ls -td runs/*/ | head -n 1))" \
		$(if $(filter-out file,$(origin MANIFEST)),'manifest=$(MANIFEST)') $(ARGS)

embed: .venv/ready $(to-embed) ## embed the recordings of MANIFEST, or the tracks of DATA, by CHECKPOINT (the newest of its runs; for your own music else the newest of all; trained when missing) into INDEX
	$(if $(or $(given),$(shell $(its-newest))),,$(MAKE) train DATA='$(DATA)')
	$(PY) -m disentangled_ml embed "checkpoint=$(or $(given),$$($(its-newest)))" $(embedded) $(ARGS)

search: .venv/ready ## search INDEX (embedded when missing) for what is LIKE a track or file, by WEIGHTS="genre=1 mood=.5"; without LIKE: measure how well that works
	$(if $(wildcard $(INDEX)/catalogue.json),,$(MAKE) embed ARGS=)
	$(PY) -m disentangled_ml search 'index=$(INDEX)' $(of-source) $(if $(LIKE),'like=$(LIKE)',precision=true) \
		$(given-checkpoint) $(addprefix weights.,$(WEIGHTS)) $(ARGS)

serve: .venv/ready ## serve a page to search INDEX (embedded when missing): docs/serve.md
	$(if $(wildcard $(INDEX)/catalogue.json),,$(MAKE) embed ARGS=)
	$(PY) -m disentangled_ml serve 'index=$(INDEX)' $(of-source) $(given-checkpoint) $(ARGS)

slurm: slurm-$(JOB) ## submit JOB=train, JOB=prepare or JOB=embed to SLURM, see docs/slurm.md

slurm-train: .venv/ready $(if $(data-is-demo),shards/demo/index.json)
	@mkdir -p 'runs/$(NAME)/slurm'
	$(submit) --job-name='$(NAME)' --output='runs/$(NAME)/slurm/%j.log' \
		--nodes=$(NODES) --ntasks-per-node=$(tasks) $(if $(filter-out 0,$(GPUS)),--gpus-per-node=$(GPUS)) \
		$(SBATCH) conf/slurm/train.sbatch 'run_name=$(NAME)' $(choices) $(ARGS)

slurm-prepare: .venv/ready $(demo-manifest)
	$(call submit-parts,prepare,$(out-logs),,$(prepared))

slurm-embed: .venv/ready $(to-embed)
	@test -n '$(CHECKPOINT)' || { echo 'CHECKPOINT is missing: make slurm JOB=embed CHECKPOINT=FILE.ckpt ...' >&2; exit 1; }
	$(call submit-parts,embed,$(INDEX)/slurm,$(if $(filter-out 0,$(GPUS)),--gpus-per-node=1),'checkpoint=$(CHECKPOINT)' $(embedded))

test: .venv/ready ## run all tests, in TEST_JOBS processes, one more than there are cores (ARGS="-m 'not slow'": the quick ones)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(TEST_JOBS) --dist loadscope --no-loadscope-reorder $(ARGS)

test-slurm: .venv/ready ## run the tests that need a SLURM cluster (SLURM_CONF says which)
	@if sinfo >/dev/null 2>&1; then $(PY) -m pytest -m slurm $(ARGS); else echo 'skipped: no SLURM cluster answers sinfo'; fi

lint: .venv/ready ## check style and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: .venv/bench-ready ## measure every stage against a peer and its limit (ARGS="stages=loss,step device=cuda")
	$(PY) -m benchmarks.run $(ARGS)

.venv/bench-ready: EXTRAS = dev,bench
.venv/bench-ready: .venv/ready
	$(install)
	@touch $@
