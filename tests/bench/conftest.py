"""The worlds of the claims are trained with torch; where it is not installed their tests are left out."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["test_claims.py"]
