"""Comparison of our models with numbers that the official implementations computed.

Nothing here computes a formula of a model: recorded inputs and random draws go through the code
that training runs, and what comes out is compared.
"""
