"""How it is judged: scoring, exams, statistics, and the demo report."""
