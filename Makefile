# Everything a newcomer types. The environment is made on first use, and again when its inputs change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check cover weights families clean

demo: $(READY)  ## the main job: digits ResNet-20 to a verified, timed INT8 ONNX file
	$(BIN)/rescompress run recipes/digits_resnet20.yaml

test: $(READY)  ## the tests; PYTEST="-m slow" and the like choose others
	$(BIN)/python -m pytest $(PYTEST)

check: $(READY)  ## style, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

cover: $(READY)  ## the tests with coverage, at least 90 %
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(PYTEST)

weights: $(READY)  ## train the shipped digits model again
	$(BIN)/rescompress run recipes/train_digits_resnet20.yaml -o runs/weights
	cp runs/weights/stages/01-fit.safetensors rescompress/weights/digits_resnet20.safetensors

families: $(READY)  ## measure docs/families.md again: every network through everything, half an hour
	rm -rf runs/families
	RESCOMPRESS_FAMILIES=runs/families $(BIN)/python -m pytest -m slow tests/models/test_grid.py
	$(BIN)/python -m tests.models.grid runs/families

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,onnx,openvino,coreml,litert,timm,hf,keras,loadgen,nvml,dev]"
	touch $@
