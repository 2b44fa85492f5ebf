"""Driving: a road, other vehicles, a traffic light, and what a drive is worth."""
