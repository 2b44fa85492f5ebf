"""Coverage: environments that pay the marginal gains of a set function of the places visited."""
