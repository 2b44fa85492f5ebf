"""The laboratory: what compares. Catalogue, claims, statistics, plots, report, command line."""
