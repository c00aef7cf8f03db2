"""The latent dataset: its format, how it is made, and the order in which it is streamed."""
