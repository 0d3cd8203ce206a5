"""The command: python -m utils.reproduction [FOLDER]."""

import argparse
import sys
from pathlib import Path

from utils.errors import UserError
from utils.reproduction.write import write_report


def main(argv: list[str] | None = None) -> int:
    """Write the report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.reproduction",
        description="Write reproduction.md, .html and .csv and deviations.md from runs.csv and "
        "attacks.csv, which sweeps with a record leave in the folder.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("exp_results/tables"))
    folder = parser.parse_args(argv).folder
    try:
        if not (folder / "runs.csv").exists():
            raise UserError(
                f"{folder} holds no runs.csv; first: "
                "python main.py --config configs/reproduce_ml100k.json"
            )
        for path in write_report(folder):
            print(path)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
