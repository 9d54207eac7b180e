"""Descriptors: extraction at several scales, perceptual hashes, and their files."""
