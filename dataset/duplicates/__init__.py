"""Finding equal and nearly equal documents in bounded memory; `dataset/dedup.py` is the way in."""
