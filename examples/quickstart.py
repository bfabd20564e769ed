"""Saliency maps from Python, from a video file: prints where people look, for every 25th frame.

    PYTHONPATH=. python examples/quickstart.py my_video.mp4                                  # by RecSal-Lite
    PYTHONPATH=. python examples/quickstart.py my_video.mp4 saved_models/RecSalNet.pth
"""
import sys

import numpy as np

from predict import Predictor

if len(sys.argv) not in (2, 3):
    sys.exit("usage: PYTHONPATH=. python examples/quickstart.py VIDEO [WEIGHTS OF RECSAL-NET]")
weights = {"weights": sys.argv[2]} if sys.argv[2:] else {"model": "recsal_lite"}
predictor = Predictor(**weights, every=25)                      # a map of every 25th frame
for seconds, saliency in predictor.predict_video(sys.argv[1]):  # (H, W), in (0, 1)
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    height, width = saliency.shape
    print(f"second {seconds:7.2f}: most salient at row {row}, column {column} of {height} x {width}")
