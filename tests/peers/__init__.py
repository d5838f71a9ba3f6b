"""Comparisons with other implementations, which need PyTorch and transformers; README.md says how to run them."""
