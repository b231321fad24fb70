"""A run as one self-contained HTML page: `page(facts)` turns plain facts into text, and computes nothing."""
