"""Metrics, tables of pairs, submissions, published results."""
