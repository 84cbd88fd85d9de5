"""From what a collection is given as its database to sessions, and who owns their transactions."""
