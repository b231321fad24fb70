"""The clean stage: first what can be known, then what does not fit, then proposals. No score or label is overwritten."""
