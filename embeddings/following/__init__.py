"""Rows of the host that a collection follows: declared, by triggers, compared, brought in."""
