"""``python -m benchmarks.privacy`` runs every figure of this folder, one module after the other."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Run all modules that have figures; 1 when one of them missed a bar."""
    names = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    programs = [name for name in names if 'if __name__ == "__main__"' in (HERE / f"{name}.py").read_text("utf-8")]
    ends = [
        subprocess.run([sys.executable, "-m", f"benchmarks.privacy.{name}", *sys.argv[1:]], check=False).returncode
        for name in programs
    ]
    return int(any(ends))


if __name__ == "__main__":
    sys.exit(main())
