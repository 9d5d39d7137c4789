# What a person does with this checkout; `make` alone lists it. Each target sees to its own set-up first.
# ARGS reaches the command behind a target: make test ARGS="-k segmenter", make start ARGS="--source talk.wav"
.PHONY: help setup demo start ready test test-all lint bench lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 15
setup: ## build .venv with what a monitor, its reports and its nightly retraining need; EXTRAS="clinic server transcribe" adds more
	@bash setup/bootstrap.sh train reports $(EXTRAS)
	@echo "The set-up is complete. Next: make demo, or make start."
demo: ## play a recording through the monitor and show its day report
	@bash setup/bootstrap.sh $(EXTRAS)
	@bash examples/demo.sh $(ARGS)
start: ## listen to the default microphone
	@bash setup/bootstrap.sh train reports $(EXTRAS)
	@.venv/bin/emosllm-monitor start $(ARGS)
ready: # everything there is, with the tools of the tests
	@bash setup/bootstrap.sh tests
# Two at a time, a file's tests together: what they share is made once for each of the two.
test: ready ## run the tests, every promise once (under 8 minutes on two cores)
	@.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)
test-all: ready ## run the long ones too
	@.venv/bin/python -m pytest --all -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)
lint: ready ## ruff, mypy and the layers of imports
	@.venv/bin/python -m ruff check
	@.venv/bin/python -m ruff format --check
	@.venv/bin/python -m mypy
	@.venv/bin/lint-imports
bench: ready ## measure, and write bench/RESULTS.md (ARGS=--quick for less)
	@.venv/bin/python -m bench $(ARGS)
lock: ready ## resolve the dependencies again (ARGS=--upgrade for newer versions)
	@.venv/bin/python setup/lock.py $(ARGS)
clean: ## remove .venv, caches and build outputs
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* .import_linter_cache
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
