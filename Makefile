# What a person does with this checkout. `make` alone lists it.
# Each target sees to its own set-up first, so `make demo` is enough on a fresh machine.
# ARGS reaches the command behind a target: make test ARGS="-k segmenter", make start ARGS="--source talk.wav"

ARGS ?=
PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo start test lint bench lock clean ready ready-tests

help:
	@echo "make setup   build .venv from the lock files (about two minutes; an interrupted one continues)"
	@echo "make demo    play a recording through the monitor and show its day report"
	@echo "make start   listen to the default microphone"
	@echo "make test    run the tests"
	@echo "make lint    ruff and mypy"
	@echo "make bench   measure, and write bench/RESULTS.md (ARGS=--quick for less)"
	@echo "make lock    resolve the dependencies again (ARGS=--upgrade for newer versions)"
	@echo "make clean   remove .venv, caches and build outputs"

# Silent and immediate once everything is there.
ready:
	@bash setup/bootstrap.sh

ready-tests:
	@bash setup/bootstrap.sh --tests

setup: ready
	@echo "The set-up is complete. Next: make demo, or make start."

demo: ready
	@bash examples/demo.sh $(ARGS)

start: ready
	@.venv/bin/emosllm-monitor start $(ARGS)

# Two at a time, a file's tests together: what they share is made once for each of the two.
test: ready-tests
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: ready
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy

bench: ready
	@$(PYTHON) -m bench $(ARGS)

lock: ready
	@bash setup/lock.sh $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
