"""Tables in files, read batch by batch as frames. What their columns mean is for ``columns``."""
