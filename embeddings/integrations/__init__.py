"""One file a framework; each imports its framework, and nothing else that is optional."""
