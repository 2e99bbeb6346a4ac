"""The trainer's promises, measured: `make bench-reliability`."""
