"""Finite worlds: every one of them is arrays in `FiniteMDP`."""
