"""The parts of predict.py: engine, sources, outputs, video files, record, submission, export."""
