"""Bandits: one decision per episode."""
