"""A small bilingual world of true facts, generated from tables in this folder."""
