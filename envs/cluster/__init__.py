"""Clusters: placing and moving virtual machines."""
