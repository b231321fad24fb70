"""What a response is worth: verifiable checks declared per prompt, and plain facts about a text. One number a rater."""
