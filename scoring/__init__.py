"""For test.py: what scores are compared with."""
