"""What both commands share: arguments, help, and one line for what a user got wrong."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from utils.config import AttackConfig, Choices, ExperimentConfig, describe, load_configs
from utils.errors import UserError
from utils.logs import console
from utils.runtime import set_threads

log = logging.getLogger(__name__)


def command(
    cls: type[ExperimentConfig] | type[AttackConfig],
    default_config: str,
    choices: Choices,
    run: Callable[[list[Any]], None],
    kept: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Read the config and run; returns the exit code.

    Args:
        cls: the command's config.
        default_config: the JSON file it reads unless told otherwise.
        choices: names allowed for keys whose registry lives outside utils.
        run: does the work for the configs of a sweep.
        kept: what to say after Ctrl-C.
        argv: arguments, sys.argv's by default.
    """
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{cls.__doc__}",
        epilog=f"Keys of the config and their defaults:\n{describe(cls, choices)}",
    )
    parser.add_argument("--config", type=Path, default=Path(default_config), metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key")
    arguments = parser.parse_args(argv)
    try:
        configs = load_configs(cls, arguments.config, arguments.overrides, choices)
        set_threads(configs[0].threads)
        with console():
            run(configs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nInterrupted. {kept}", file=sys.stderr)
        return 130
    return 0
