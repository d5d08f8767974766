"""Runs detectors on labelled data sets and compares them."""
