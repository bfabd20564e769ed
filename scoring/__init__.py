"""For test.py: where maps come from, what they are scored against, and the report."""
