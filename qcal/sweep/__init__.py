"""Regimes x seeds -> runs: many runs of the ordinary command line, on this machine or on a Ray cluster.

A sweep file is read (`sweep_file`), multiplied out (`expansion`) and checked by the command line's own parser
(`resolution`). What there is to do for each run is read off its folder (`continuation`); `run_process` does it, one
process a run, held by `local_engine` or by Ray (`ray_engine`). Nothing in here trains.
"""
