"""The migrations of the help desk."""
