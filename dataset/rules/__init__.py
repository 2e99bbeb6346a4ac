"""What the cleaning rules of `dataset/cleaning.py` do and measure."""
