"""Benchmarks, each `python -m benchmarks.NAME`; docs/performance.md says what they measured.

`recipe` and `ranking` measure accuracy on real images, for hours, and are not among `all`.
"""

from tamnas.pipeline.instructions import instruction_set, use_instructions

use_instructions(instruction_set())
