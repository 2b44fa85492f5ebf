"""Routing and packing: environments whose states are partial solutions, or the instances left."""
