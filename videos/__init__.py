"""For dataloader.py: finding videos, pairing their frames with annotation, reading both, and checking all of it."""
