"""A distribution of its own that plugs into pyod_ae_plugin, for the tests."""
