"""Agents that learn from recorded data."""
