# The verbs of the development loop; CI runs the same ones. `make help` lists them.
#
#   make test                                        an own environment in .venv, made and filled on first use
#   make test PYTHON=/path/to/python INSTALL=0       an environment that has torch already; nothing is installed
#   make test TORCH=2.11.0                           another torch in .venv
#   make test ARGS="-k reader -x"                    ARGS go to pytest, the demo or the benchmarks

PYTHON ?= python3
INSTALL ?= 1
TORCH ?= $(shell sed -n 's/^torch==//p' requirements/torch.txt)
ARGS ?=
CXX ?= g++

VENV := .venv
ifeq ($(INSTALL),0)
PY := $(PYTHON)
TOOLS := tree
RUNTIME := tree
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PY := $(VENV)/bin/python
TOOLS := $(VENV)/lint-tools
RUNTIME := $(VENV)/torch-$(TORCH)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
endif
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
REQUIREMENTS := $(addprefix requirements/,run.txt build.txt test.txt)
CXX_FILES = $(shell find csrc tests benchmarks -name '*.h' -o -name '*.cpp')
CLANG_FORMAT = $(PY) -c 'import clang_format; clang_format.clang_format()' --style=file

.PHONY: help demo test lint format bench sanitize memcheck made-gpu build clean tree
.DELETE_ON_ERROR:

help:
	@echo 'make demo      record a small Wan on all GPUs, or on 2 CPU processes, and print its report'
	@echo 'make test      all tests (ARGS="..." goes to pytest; GPU tests are skipped without a GPU)'
	@echo 'make lint      ruff and clang-format, changing nothing; make format applies the format'
	@echo 'make bench     unit costs and end-to-end cost beside other tools'
	@echo 'make sanitize  the native core under ASan, UBSan and TSan'
	@echo 'make memcheck  GPU tests under compute-sanitizer; 2 where nothing could be checked'
	@echo 'make made-gpu  GPU tests on GPUs that compute nothing, without one at hand (needs TORCH=2.11.0)'
	@echo 'make build     the extension alone'
	@echo 'make clean     remove what was built; .venv stays'
	@echo
	@echo 'PYTHON=/path/to/python INSTALL=0 uses an environment that has torch, and no network.'
	@echo 'TORCH=2.11.0 chooses the torch version of .venv.'

demo: build
	@$(PY) -m wanhook.demo $(ARGS)

test: build
	@$(PY) -m pytest $(ARGS)

bench: build
	@$(PY) -m benchmarks.run $(ARGS)

# WANHOOK_REQUIRE_GPU: a test that is skipped was not checked.
memcheck: build
	@PYTHONPATH=tests$(if $(PYTHONPATH),:$(PYTHONPATH)) WANHOOK_REQUIRE_GPU=$${WANHOOK_REQUIRE_GPU:-1} \
	  $(PY) -m gpu.memcheck $(ARGS)

made-gpu: build
	@PYTHONPATH=tests$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PY) -m made_gpu $(ARGS)

build: $(RUNTIME)
	@$(PY) -m native_build.in_tree $(if $(filter 0,$(INSTALL)),,--install)

lint: $(TOOLS)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(CLANG_FORMAT) --dry-run -Werror $(CXX_FILES)

format: $(TOOLS)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(CLANG_FORMAT) -i $(CXX_FILES)

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .hypothesis wanhook/_build.json wanhook/*.so
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The environments --------------------------------------------------------------------------------------------------

NEEDED = $(if $(filter-out lint format,$(MAKECMDGOALS)),torch numpy orjson rich) \
  $(if $(filter test memcheck made-gpu,$(MAKECMDGOALS)),pytest hypothesis) \
  $(if $(filter lint format,$(MAKECMDGOALS)),ruff clang_format)

tree:
	@$(PY) native_build/check_machine.py $(NEEDED)

$(VENV)/pyvenv.cfg:
	@$(PYTHON) native_build/check_machine.py --new-environment
	@echo 'making $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/lint-tools: requirements/lint.txt | $(VENV)/pyvenv.cfg
	@$(PIP) -r requirements/lint.txt
	@touch $@

# One torch at a time lives in the environment: a second stamp would claim that the first is still there.
$(VENV)/torch-$(TORCH): $(REQUIREMENTS) | $(VENV)/pyvenv.cfg
	@echo 'installing torch $(TORCH) and the pinned requirements into $(VENV)'
	@rm -f $(VENV)/torch-*
	@$(PIP) torch==$(TORCH) $(addprefix -r ,$(REQUIREMENTS))
	@headers=$$($(PY) -m native_build.cuda_toolkit) && { [ -z "$$headers" ] || $(PIP) $$headers; }
	@touch $@

# The native core under sanitizers: no Python and no torch, so every report is about our own code ---------------------

SANITIZED = $(patsubst tests/native/%.cpp,%,$(wildcard tests/native/*.cpp))
NATIVE_SOURCES = $(filter-out %_cuda.cpp %/bindings.cpp,$(wildcard csrc/core/*.cpp csrc/device/*.cpp csrc/replay/*.cpp))
NATIVE_HEADERS = $(wildcard csrc/core/*.h csrc/device/*.h csrc/replay/*.h tests/native/*.h)
SANITIZER_FLAGS = -std=c++17 -g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all -pthread -Wall -Wextra -Icsrc
# TSan of older compilers stops at once under a kernel that randomises addresses widely.
FIXED_ADDRESSES = $(shell setarch $$(uname -m) -R true 2>/dev/null && echo setarch $$(uname -m) -R)

sanitize: $(foreach name,$(SANITIZED),build/sanitize/$(name)-address build/sanitize/$(name)-thread)
	@[ -n '$(SANITIZED)' ] || { echo 'sanitize: tests/native holds no *.cpp'; exit 1; }
	@failed=0; for program in $^; do \
	  if $(FIXED_ADDRESSES) $$program; then echo "sanitize: $$program passed"; \
	  else echo "sanitize: $$program FAILED"; failed=1; fi; \
	done; exit $$failed

# Programs that get the CUDA half of the device layer, on a fake runtime.
ON_FAKE_CUDA = build/sanitize/lent_events-address build/sanitize/lent_events-thread
FAKE_CUDA = $(wildcard csrc/core/*.cpp) $(patsubst %,csrc/device/%_cuda.cpp,event_pool device_timer pair_cost)
$(ON_FAKE_CUDA): NATIVE_SOURCES = $(FAKE_CUDA)
$(ON_FAKE_CUDA): SANITIZER_FLAGS += -Itests/native/fake_cuda

build/sanitize/%-address: tests/native/%.cpp $(NATIVE_SOURCES) $(NATIVE_HEADERS)
	@mkdir -p $(@D)
	$(CXX) $(SANITIZER_FLAGS) -fsanitize=address,undefined -o $@ $< $(NATIVE_SOURCES) -ldl

build/sanitize/%-thread: tests/native/%.cpp $(NATIVE_SOURCES) $(NATIVE_HEADERS)
	@mkdir -p $(@D)
	$(CXX) $(SANITIZER_FLAGS) -fsanitize=thread -o $@ $< $(NATIVE_SOURCES) -ldl
