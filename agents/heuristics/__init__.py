"""The rules of inventory theory, tuned where they have something to tune: what a learner has to
beat."""
