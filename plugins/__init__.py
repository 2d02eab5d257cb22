"""Your own choice blocks, sources, objectives and attacks: every module in this folder is imported before parameters
are read (docs/extending.md). A change here re-runs what its stages compute.
"""
