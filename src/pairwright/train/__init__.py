"""Training: pairs routed, conditioned on goals and checked as tables, then trained on with TRL."""
