# make demo   sets up, runs the whole pipeline, shows the results
# make test   sets up, checks format and types, runs the tests

PYTHON ?= python3
EXTRA ?= cpu
CPU_WHEELS := https://download.pytorch.org/whl/cpu
TORCH := $(shell grep '^torch==' constraints.txt)
PACKAGE := -c constraints.txt -e '.[$(EXTRA),dev]'
COMPILED := torch sympy scipy diffusers transformers numpy matplotlib mpmath distributed dvc zarr
# uv is ten times faster than pip, which takes over where only pip is set up for the network.
install = uv pip install -q $(1) || pip install -q --no-compile $(1)

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test clean

demo: .venv/installed-$(EXTRA)
	dvc repro
	@ditf results

test: .venv/installed-$(EXTRA) .venv/quantize/installed
	ruff format --check .
	ruff check .
	lint-imports --no-logo
	mypy -n auto
	pytest

# On Linux without an NVIDIA GPU, torch's CPU build: its usual one brings gigabytes of CUDA.
.venv/installed-$(EXTRA): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	    pip install -q --no-compile --no-deps --retries 1 --timeout 20 --index-url $(CPU_WHEELS) $(TORCH) \
	    || echo "torch's CPU build was not found; its usual build follows"; \
	fi
	pip install -q --no-compile -c constraints.txt uv
	$(call install,$(PACKAGE))
	@# What takes longest to compile, on all cores; the rest is compiled when it is first imported.
	@python -m compileall -q -j 0 -x '/(tests?|testing|_inductor|_vendor|physics|transformers/models|(modular_)?pipelines)/' \
	    $(COMPILED:%=.venv/lib/python*/site-packages/%/) >/dev/null || true
	@touch $@

# Where these are installed, every import of diffusers takes a second more: they lie apart, for the tests of quantization.
.venv/quantize/installed: constraints.txt | .venv/installed-$(EXTRA)
	$(call install,-c constraints.txt --no-deps --upgrade --target .venv/quantize bitsandbytes torchao)
	@touch $@

clean:
	rm -rf .venv data results catalogs/*/ cache/*/
