"""The detector of pictures that were pasted on pictures (notebook 10)."""
