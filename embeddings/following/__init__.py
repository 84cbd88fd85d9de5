"""Rows of the host -> a collection: what is compared, what is pending, and how it is brought in."""
