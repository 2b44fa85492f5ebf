"""Planning in finite Markov decision processes given as arrays.

Pure functions over many processes at once: `discounted`, `finite_horizon` and `average_reward`
solve them, evaluate policies and give their occupancies; `linear_programming` does it again by
other means; `regret` says what a learner has lost; `robust` plans against the worst model of a set,
`distributional` and `stock` with whole laws of returns; `effective_horizon` says how far one has to
look ahead from the values of the random policy. `tables` defines the forms of the arrays.
"""
