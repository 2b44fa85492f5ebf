"""Agents for worlds that differ from those they learned in."""
