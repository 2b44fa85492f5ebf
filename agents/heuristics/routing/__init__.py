"""Classical heuristics and reference solvers for routing and packing."""
