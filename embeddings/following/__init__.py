"""Rows of the host that a collection follows: what is declared of them, and triggers."""
