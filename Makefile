# make demo   set up, run the whole pipeline, show the results
# make test   set up, check the code, run all tests
# make docs   set up, build the documentation into site/
# make clean  remove the environment, data and results
#
# PYTHON=python3.12 chooses another Python. EXTRA chooses optional dependencies of pyproject.toml, such as EXTRA=gpu or
# EXTRA=cpu,quantize.

PYTHON ?= python3
EXTRA ?= cpu
TORCH := $(shell grep '^torch==' constraints.txt)
CPU_WHEELS := https://download.pytorch.org/whl/cpu
INSTALLED := .venv/installed-$(EXTRA)
INSTALL := $(if $(shell command -v uv),uv pip install,pip install --no-compile)

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test docs clean

demo: $(INSTALLED)
	dvc repro
	@ditf results
	@echo
	@echo "To use ditf and dvc in this shell: . .venv/bin/activate"

test: $(INSTALLED)
	ruff format --check .
	ruff check .
	lint-imports --no-logo
	mypy -n auto
	mkdocs build --quiet
	pytest

docs: $(INSTALLED)
	mkdocs build

# PyPI's torch for Linux brings gigabytes of CUDA. Without an NVIDIA GPU, the CPU build is installed first.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	    pip install -q --no-compile --no-deps --retries 0 --timeout 15 --index-url $(CPU_WHEELS) $(TORCH) \
	    || echo "$(CPU_WHEELS) has no answer: pip's own index decides which build of torch is installed."; \
	fi
	$(INSTALL) -q -c constraints.txt -e '.[$(EXTRA),dev]'
	@touch $@

clean:
	rm -rf .venv site data results catalogs/*/ cache/*/
