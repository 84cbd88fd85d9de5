"""Query to entry: the arguments of a search, the searches, and the scan that all have to equal."""
