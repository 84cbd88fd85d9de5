"""One operation on a collection: which one is meant, what it works on, the collection's row."""
