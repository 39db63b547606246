"""Evaluation of trained networks: predictions, results, certificates and robustness."""
