"""Benchmark of detectors on labelled data sets."""
