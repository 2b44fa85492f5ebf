"""Agents that decide about data."""
