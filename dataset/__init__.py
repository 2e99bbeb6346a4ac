"""What it learns from: sources, conversations, packing, and the order in which rows are read."""
