"""Every error that Pairwright raises on purpose.

    PairwrightError
    ├── ConfigError        (ValueError)    a recipe, an option or a rule that cannot be meant
    ├── DataError          (ValueError)    a file, a row or a value that does not fit
    ├── StoreError         (OSError)       a folder or a file that cannot be read or written
    ├── BackendError       (RuntimeError)  a model or a server that did not do its work
    ├── MissingDependency  (ImportError)   an optional package that is not installed; names the install line
    ├── NotIdentifiable    (ValueError)    a question that this data cannot answer; says what would answer it
    └── NotConverged       (ArithmeticError) a fit that stopped before its answer

The message says what, where (file, row, id, value) and what to do next. The command line prints it as one line and exits
with 2; every other exception keeps its traceback.
"""


class PairwrightError(Exception):
    """Root of the tree above."""


class ConfigError(PairwrightError, ValueError):
    """A recipe, an option or a rule that cannot be meant."""


class DataError(PairwrightError, ValueError):
    """A file, a row or a value that does not fit."""


class StoreError(PairwrightError, OSError):
    """A folder or a file that cannot be read or written."""


class BackendError(PairwrightError, RuntimeError):
    """A model or a server that did not do its work."""


class MissingDependency(PairwrightError, ImportError):
    """An optional package that is not installed."""


class NotIdentifiable(PairwrightError, ValueError):
    """A question that this data cannot answer."""


class NotConverged(PairwrightError, ArithmeticError):
    """A fit that stopped before its answer."""
