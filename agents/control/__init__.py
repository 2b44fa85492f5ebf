"""Agents for continuous control."""
