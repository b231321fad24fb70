"""Recipes against each other and their controls: the same budget, the same held-out prompts, the same KL."""
