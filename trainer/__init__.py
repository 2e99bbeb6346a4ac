"""How it learns: one loop, its objectives, optimizer, schedule, state and reports."""
