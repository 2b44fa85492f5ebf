"""Language models improved by rewards of their replies."""
