"""Runs: command line, parameter sets, notebooks executed by papermill, matrices of runs."""
