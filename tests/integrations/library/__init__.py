"""A Django app: what the tests of Django have as their host's."""
