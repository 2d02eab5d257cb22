"""The committed default run, computed anew from nothing: results/, reports/ and dvc.lock must be the same bytes.

    make golden

Runs `dvc repro --force` in a temporary copy of the working tree. Names the first stage whose results differ and the
first file of it; exit code 1 then. Where the processor has no AVX2, bits may differ: it says so and does nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tamnas.pipeline.instructions import has_avx2
from tests.helpers.tiny import commit, environment, git
from tests.helpers.tutorial import checkout

COMPARED = ("results", "reports", "dvc.lock")


def main() -> int:
    if not has_avx2():
        print("golden: this processor has no AVX2, so the committed bytes cannot be expected of it; nothing compared")
        return 0
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = checkout(Path(name))
        commit(folder, "golden")
        for results in COMPARED[:2]:
            shutil.rmtree(folder / results)
        subprocess.run([sys.executable, "-m", "dvc", "repro", "--force"], cwd=folder, env=environment(), check=True)
        git(folder, "add", "--all", *COMPARED)
        changed = git(folder, "diff", "--cached", "--name-only", *COMPARED).split()
        if not changed:
            print("golden: every byte of results/, reports/ and dvc.lock is the committed one")
            return 0
        oldest = min((path for path in changed if (folder / path).exists()),
                     key=lambda path: os.stat(folder / path).st_mtime_ns, default=changed[0])  # fmt: skip
        print(f"golden: {len(changed)} files differ; the first that was written is {oldest}:", *changed, sep="\n  ")
        subprocess.run(["git", "--no-pager", "diff", "--cached", "--unified=0", oldest], cwd=folder, check=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
