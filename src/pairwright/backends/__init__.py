"""Models behind the protocols of `pairwright.protocols`. Heavy imports stand inside the functions that need them."""
