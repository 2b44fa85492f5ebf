"""Networks that more than one system uses."""
