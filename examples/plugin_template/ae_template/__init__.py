"""An autoencoder with tied weights: a detector, a network and a score head."""
