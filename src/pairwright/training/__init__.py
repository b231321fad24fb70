"""Training a policy on pairs: what is asked for, the rows, the run, and what a person takes away."""
