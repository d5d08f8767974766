"""Devices, the training loop and the scoring loop, in pure torch."""
