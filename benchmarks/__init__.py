"""Benchmarks, each `python -m benchmarks.NAME`; docs/performance.md says what they measured.

`recipe` and `ranking` measure accuracy on real images, for hours, and are not among `all`.
"""

from tamnas.config.fields import read_yaml
from tamnas.pipeline.instructions import use_instructions

use_instructions(read_yaml("params.yaml").get("numerics", {}).get("instruction_set", "avx2"))
