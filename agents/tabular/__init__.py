"""Agents for finite worlds."""
