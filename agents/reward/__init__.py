"""Models of what replies are worth, learned from what people or programs prefer."""
