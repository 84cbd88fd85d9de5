"""What each database does its own way: one folder a database."""
