"""Pairs out of scored responses: the rules, and the stage that applies them."""
