"""Data as what is decided on: whose to collect."""
