"""What an agent acts in: one folder per domain, one file per environment."""
