"""Descriptors: parts of images, extraction at several scales, perceptual hashes, and their files.

Nothing is imported here: `parts`, which every worker process imports, must stay light.
"""
