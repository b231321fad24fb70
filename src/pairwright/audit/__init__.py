"""Facts about a run or a data set, as records. Nothing is printed here."""
