"""Control: continuous actions, and physics that can be set."""
