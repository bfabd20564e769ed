"""For dataloader.py: what is read from disk, pictures and annotation, video files."""
