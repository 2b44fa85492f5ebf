"""Planning in finite Markov decision processes given as arrays."""
