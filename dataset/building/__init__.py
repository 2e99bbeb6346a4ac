"""From raw inputs to a packed set, step by step; `pipeline.py` is the way in."""
