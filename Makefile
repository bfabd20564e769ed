# One command each: `make demo` sets up, predicts a clip, then trains and scores on a generated sample; `make test` runs
# all tests.
PYTHON ?= python3
BIN := .venv/bin

# A network and frames small enough for two CPU cores; every default of train.py is the full one.
DEMO := --data data/sample --run-dir saved_models/demo --overwrite --encoder-weights none \
	--frame-size 32 64 --embed-dim 24 --depths 1 1 1 1 --num-heads 1 2 4 8 --width 32 --patch-norm --drop-path 0 \
	--lr 1e-3 --warmup 100 --batch-size 2 --epochs 4 --val-every 4 --flip --workers 1

# SMCF with narrow trunks, through its three stages.
OBJECTS := --model smcf --data data/vsod_sample --run-dir saved_models/demo-objects --overwrite \
	--frame-size 64 96 --scales 1 --trunk-width 16 --trunk-blocks 1 1 1 1 --epochs 2 --workers 1

.PHONY: demo demo-objects test crosscheck bench gpu soak lint clean

demo: .venv/installed
	$(BIN)/python predict.py examples/big_buck_bunny.mp4 --model recsal_lite \
		--weights saved_models/recsal_lite.safetensors --save overlay --out results/demo --overwrite
	@echo 'Look at results/demo/big_buck_bunny_overlay.mp4. Next: a small network is trained and scored.'
	$(BIN)/python data/make_sample.py --out data/sample
	$(BIN)/python train.py $(DEMO)
	$(BIN)/python test.py --data data/sample --weights saved_models/demo/RecSalNet.pth --centre-baseline \
		--run-name demo --overwrite
	@echo 'Look at results/demo: scores.md, best_and_worst.png, and the maps in RecSalNet.'
	@echo 'The frames are in data/sample/val.'

demo-objects: .venv/installed
	$(BIN)/python data/make_sample.py --kind vsod --out data/vsod_sample
	$(BIN)/python train.py $(OBJECTS) --train-type pretrain-rgb --encoder-weights none
	$(BIN)/python train.py $(OBJECTS) --train-type pretrain-flow --encoder-weights none
	$(BIN)/python train.py $(OBJECTS) --train-type finetune
	$(BIN)/python test.py --model smcf --weights saved_models/demo-objects/SMCF.pth --data data/vsod_sample \
		--split TestSet/sample --centre-baseline --run-name demo-objects --overwrite
	@echo 'Look at results/demo-objects: scores.md, best_and_worst.png, and the maps in SMCF.'
	@echo 'The frames are in data/vsod_sample/TestSet.'

# Two files of tests at a time, with one thread each: what the tests of a file share is made once.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The measures against pysaliency's, which comes as source and needs a C compiler.
crosscheck: .venv/installed
	$(BIN)/python -m pip install --quiet ".[crosscheck]"
	$(BIN)/python -c 'import pysaliency'
	$(BIN)/python -m pytest tests/test_loss.py -k pysaliency

# Every speed, beside a plain formulation in the same run: about half an hour on 2 CPU cores. DEVICE=cuda on a GPU.
DEVICE ?= auto
bench: .venv/installed
	$(BIN)/python -m benchmarks.measures
	$(BIN)/python -m benchmarks.network --device $(DEVICE)
	$(BIN)/python -m benchmarks.evaluation --device $(DEVICE)
	$(BIN)/python -m benchmarks.clips
	$(BIN)/python -m benchmarks.lite --device $(DEVICE)

# On a machine with a GPU: what must hold there, then every figure, in 8 minutes at most. Nothing is installed where
# Python has PyTorch for CUDA and the other packages; this checkout's environment is used if there is one.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu --out results/gpu

# What takes long: bfloat16 beside float32 on the demo's scores (after make demo; CI does that one too), an hour of
# video, runs that are killed again and again, damaged files by the thousand, memory over many steps and frames, every
# network learning.
soak: .venv/installed
	PYTHONPATH=. $(BIN)/python tests/long/bfloat16_scores.py
	PYTHONPATH=. $(BIN)/python tests/long/hour_of_video.py
	PYTHONPATH=.:data $(BIN)/python tests/long/kill.py
	PYTHONPATH=. $(BIN)/python tests/long/fuzz.py
	PYTHONPATH=.:data $(BIN)/python tests/long/memory.py
	PYTHONPATH=.:data $(BIN)/python tests/long/learn.py

lint: .venv/installed
	$(BIN)/ruff check .

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; \
		sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps "pysodmetrics>=1.6"      # which asks for older NumPy than it needs
	touch $@

clean:
	rm -rf .venv build data/sample data/vsod_sample saved_models/demo saved_models/demo-objects \
		results/demo results/demo-objects *.egg-info
