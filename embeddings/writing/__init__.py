"""Vector to row: items, what they need of the model, plans, and the rows that are written."""
