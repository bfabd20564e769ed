"""Parts of train.py."""
