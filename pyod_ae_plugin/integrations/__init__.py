"""Integrations with other packages and systems, one module for each."""
