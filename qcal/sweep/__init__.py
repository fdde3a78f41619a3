"""Regimes x seeds -> runs. Empty so far: one run is `train.py fit` with a regime's overlay and a seed."""
