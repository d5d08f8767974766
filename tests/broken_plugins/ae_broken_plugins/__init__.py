"""A distribution whose plugins do everything wrong, for the tests."""
