"""Combinatorial optimisation and operations research."""
