"""Which pairs to keep: margins fused or one number per pair ranked, caps, bands, and a control beside every selection."""
