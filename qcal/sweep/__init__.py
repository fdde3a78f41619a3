"""Regimes x seeds -> runs: the room for studies of many runs; single runs are `train.py fit` with a regime's overlay and a seed."""
