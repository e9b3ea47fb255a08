# The commands a person types. A second run of one does again only what has changed.

PYTHON ?= python3
URI ?= test:///default
ARGS ?=
THREADS ?= 4
QUICK ?=
COMPARE ?=
SECONDS ?= 600
SEED ?= $(shell od -An -N3 -tu4 /dev/urandom)
PART ?=
FIRST ?= 0
FREETHREADED ?=
WHEELS_FOR ?=
WHEELS ?= dist
GROUP ?= test

# Test files whose tests may each run in many threads at once.
THREAD_SAFE := $(addprefix tests/,test_arguments.py test_auth.py test_errors.py test_results.py)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet

# Python that imports nothing from the folder that it runs in.
INSTALLED := PYTHONSAFEPATH=1 $(BIN)/python

export PYTHON PIP_PREFER_BINARY
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help run test test-wheel test-installed test-memory test-freethreaded test-in-threads
.PHONY: test-threads test-races wheels platforms fuzz bench lint clean
.NOTPARALLEL:  # one pip at a time in the environment

help:
	@echo "make run     build, and print the report of the host that URI names ($(URI))"
	@echo "make test    run the tests, with the arguments for pytest that ARGS holds"
	@echo "make test-memory   run their core under ASAN, UBSAN and valgrind"
	@echo "make test-freethreaded   run them where there is no GIL, some in many threads at once;"
	@echo "             PYTHON names the interpreter, such as python3.13t"
	@echo "make test-threads   run those that start threads under ThreadSanitizer"
	@echo "make wheels  build the sdist and a wheel for each CPython found, into dist; WHEELS_FOR"
	@echo "             names them instead"
	@echo "make test-wheel   run the tests against the wheel from dist, installed"
	@echo "make platforms    do so on Debian 11, 12, 13 and unstable, as root, in an hour"
	@echo "make fuzz    make random calls for SECONDS ($(SECONDS)), as SEED says"
	@echo "make bench   measure against libvirt-python and C, in 20 minutes, with QUICK=1 in 3;"
	@echo "             COMPARE names an earlier build/bench.json, FREETHREADED a python3.13t"
	@echo "make lint    check the sources and the type stubs"
	@echo "make clean   remove all that the others made"
	@echo "Each first sets up what it needs. PYTHON names the interpreter ($(PYTHON))."

run: $(VENV)/installed
	@$(BIN)/python -m pyvirhost --connect "$(URI)"

test: $(VENV)/installed $(VENV)/test-group
	@.ci/packages test
	$(BIN)/python -m pytest $(ARGS)

test-memory: $(VENV)/installed $(VENV)/test-group
	@.ci/packages test
	@.ci/packages memory
	$(BIN)/python .ci/memory.py

# In the unpacked sdist, with an environment of its own, so that nothing of this folder is tested.
test-wheel:
	@rm -rf build/sdist
	@mkdir -p build/sdist
	tar -xf dist/pyvirhost-*.tar.gz -C build/sdist --strip-components=1
	@$(MAKE) --no-print-directory -C build/sdist test-installed WHEELS="$(CURDIR)/dist"

# pip has to take the wheel from there, and by its path. The benchmarks are no part of it.
test-installed: $(VENV)/made $(VENV)/$(GROUP)-group
	@.ci/packages test
	$(PIP) download --no-index --find-links "$(WHEELS)" --no-deps --only-binary :all: --dest build/wheel pyvirhost
	$(PIP) install "$$(echo build/wheel/*.whl)[cli]"
	@$(INSTALLED) -c "import pyvirhost; print(pyvirhost.__file__); \
	    assert pyvirhost.__file__.startswith('$(CURDIR)/$(VENV)/')"
	$(INSTALLED) -m pytest --ignore=tests/test_benchmarks.py $(ARGS)

# In an environment of its own. Dask has no wheels there, and no allocator but the interpreter's own
# may be put in. The newest NumPy and hypothesis have wheels for newer Pythons only.
test-freethreaded:
	@$(MAKE) --no-print-directory VENV=.venv-freethreaded PIP_PREFER_BINARY=1 test-in-threads

test-in-threads: $(VENV)/installed $(VENV)/freethreaded-group
	@.ci/packages test
	@$(BIN)/python -c "import sys; sys.exit(sys._is_gil_enabled())" || \
	    { echo "pyvirhost: $(PYTHON) has a GIL; name one without: PYTHON=python3.13t" >&2; exit 1; }
	$(BIN)/python -m pytest --ignore=tests/test_dask.py --ignore=tests/test_nomemory.py $(ARGS)
	$(BIN)/python -m pytest --parallel-threads=$(THREADS) $(THREAD_SAFE) $(ARGS)

# The interpreter is built for it; what it reports while pip runs it is nobody's matter.
test-threads:
	@python=$$(.ci/freethreaded-python --tsan) && TSAN_OPTIONS=report_bugs=0 \
	    $(MAKE) --no-print-directory VENV=.venv-tsan PIP_PREFER_BINARY=1 PYTHON="$$python" test-races

test-races: $(VENV)/freethreaded-group
	@.ci/packages test
	$(BIN)/python .ci/races.py $(THREAD_SAFE)

# WHEELS_FOR names the interpreters, else it is all that are found.
wheels: $(VENV)/wheels-group
	@$(BIN)/python .ci/wheels.py dist $(WHEELS_FOR)

platforms:
	.ci/platforms make
	@$(MAKE) --no-print-directory wheels
	.ci/platforms bare
	.ci/platforms suite

fuzz: $(VENV)/installed $(VENV)/test-group
	@.ci/packages test
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(SECONDS) --seed $(strip $(SEED)) \
	    --first $(FIRST) $(if $(PART),--only $(PART))

bench: $(VENV)/installed $(VENV)/bench-group
	@.ci/packages bench
ifneq ($(FREETHREADED),)
	@$(MAKE) --no-print-directory VENV=.venv-freethreaded PYTHON="$(FREETHREADED)" \
	    .venv-freethreaded/installed
endif
	@PYTHONPATH=tests $(BIN)/python -m benchmarks $(if $(QUICK),--quick,--pictures benchmarks) \
	    $(if $(COMPARE),--compare "$(COMPARE)") \
	    $(if $(FREETHREADED),--free-threaded .venv-freethreaded/bin/python)

lint: $(VENV)/installed $(VENV)/lint-group $(VENV)/test-group
	$(BIN)/ruff check .
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint pyvirhost include  # it starts pycodestyle
	$(BIN)/python setup.py -q build_ext --strict --force --build-lib build/strict --build-temp build/strict
	$(BIN)/mypy pyvirhost
	$(BIN)/mypy --config-file tests/mypy.ini tests benchmarks
	$(BIN)/stubtest pyvirhost --allowlist tests/stubtest.allowlist --ignore-unused-allowlist
	$(BIN)/check-manifest --no-build-isolation
	$(BIN)/pyroma --min 10 .

clean:
	rm -rf .venv .venv-freethreaded .venv-tsan build dist *.egg-info pyvirhost/*.c pyvirhost/*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -r {} +

$(VENV)/made:
	@.ci/packages build
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip >= 25.1"  # the first that knows dependency groups
	@touch $@

# Editable: the .py files are used where they lie, only what is compiled has to be built anew.
$(VENV)/installed: $(VENV)/made pyproject.toml setup.py $(wildcard include/* pyvirhost/*.pyx pyvirhost/*.px[di])
	$(PIP) install --editable ".[cli]"
	@touch $@

$(VENV)/%-group: $(VENV)/made pyproject.toml
	$(PIP) install --group $*
	@touch $@
