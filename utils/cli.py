"""What both commands share: arguments, help, sweeps, and one line for what went wrong."""

import argparse
import dataclasses
import difflib
import json
import logging
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

from utils.config import AttackConfig, RunConfig, load_configs
from utils.errors import UserError, in_one_line
from utils.messages import sweep_keys, sweep_point
from utils.ranks import launched, speaks
from utils.runs.listing import finished_runs
from utils.runs.logs import console
from utils.runs.records import Record
from utils.runtime import keep_freed_memory, set_threads, versions
from utils.schema import Choices, describe, expand_home, file_schema

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """One of the two commands.

    Attributes:
        program: its file.
        config: its config.
        default_config: the JSON file it reads unless told otherwise.
        choices: names allowed for keys whose registry lives outside utils.
        check: refuses keys that make no sense together, before anything is computed.
        idle: the keys that have no bearing on what is asked for, each with the reason.
        record: where a config's results get rows, if anywhere.
        same: equal for combinations whose work is the same, such as an original's with two
            regularisers; they are done once.
        run: does the work for one combination of a sweep; returns what came out, with the key
            "found" if it was there already.
        close: shows what came out of a sweep; gets its first config too.
        kept: what is there after Ctrl-C.
    """

    program: str
    config: type[RunConfig] | type[AttackConfig]
    default_config: str
    choices: Choices
    check: Callable[[Any], None]
    idle: Callable[[Any], dict[str, str]]
    record: Callable[[Any], Record | None]
    same: Callable[[Any], str]
    run: Callable[[Any], dict[str, Any]]
    close: Callable[[list[dict[str, Any]], Any], None]
    kept: str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python {self.prog} --help")


def execute(command: Command, argv: Sequence[str] | None = None) -> int:
    """Read the config and run.

    Args:
        command: which.
        argv: arguments, sys.argv's by default.

    Returns:
        The exit code: 0, 2 where the user can mend something, 3 where a result has the key "gate"
        with the value "failed", 1 after an unexpected failure in a sweep, 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        _check_spelling(command, argv)
        given = _parser(command).parse_intermixed_args(argv)
        if given.schema:
            print(json.dumps(file_schema(command.config, command.choices), indent=2))
            return 0
        if given.version:
            print(versions())
            return 0
        configs = load_configs(command.config, given.config, given.overrides, command.choices)
        if given.list:
            for path in dict.fromkeys(config.results_path for config in configs):
                print(finished_runs(Path(path)))
            return 0
        keep_freed_memory()
        with console(logging.INFO if speaks() else logging.ERROR):
            for config in configs:
                command.check(config)
            _say_idle(given.overrides, [command.idle(config) for config in configs])
            for record in dict.fromkeys(map(command.record, configs)):
                if record:
                    record.check()
            return _run_all(command, configs)
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        if (line := in_one_line(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        alone = shlex.join(["python", command.program, *argv])
        again = "the same torchrun command" if launched() else alone
        print(f"\nInterrupted. {command.kept} To go on: {again}", file=sys.stderr)
        return 130


def _parser(command: Command) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=command.program,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{command.config.__doc__}",
        epilog="Keys of the config and their defaults:\n"
        + describe(command.config, command.choices),
    )
    default_config = Path(command.default_config)
    parser.add_argument("--config", type=_file, default=default_config, metavar="FILE")
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON schema of FILE, for editors, and end"
    )
    parser.add_argument(
        "--list", action="store_true", help="show the finished runs in results_path, and end"
    )
    parser.add_argument("--version", action="store_true", help="show what this is, and end")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key")
    return parser


def _file(path: str) -> Path:
    return Path(expand_home(path))


def _check_spelling(command: Command, argv: Sequence[str]) -> None:
    """Refuse a key that is given like an option (--epochs 3), or without its equals sign.

    Raises:
        UserError: says what was meant.
    """
    names = [field.name for field in dataclasses.fields(command.config)]
    for before, word, after in zip(["", *argv], argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if before == "--config" or name in ("--config", "--schema", "--list", "--version"):
            continue
        if word.startswith("--"):
            name = name.removeprefix("--").replace("-", "_")
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
        else:
            near = [name] if name in names and not equals else []
        value = value if equals else after
        if near and value and (equals or "=" not in value) and not value.startswith("--"):
            meant = shlex.quote(f"{near[0]}={value}")
            raise UserError(f"keys are written key=value; did you mean {meant} for {word}?")


def _say_idle(overrides: Sequence[str], idle: Sequence[dict[str, str]]) -> None:
    """Warn of keys of the command line that none of the runs heeds."""
    for name in dict.fromkeys(override.partition("=")[0] for override in overrides):
        if all(name in one for one in idle):
            log.warning("%s does nothing here: %s", name, idle[0][name])


def _run_all(command: Command, configs: list[Any]) -> int:
    """Every combination; a failing one in a sweep is named at the end, the others go on."""
    unique: dict[str, Any] = {}
    for config in configs:
        unique.setdefault(command.same(config), config)
    configs = list(unique.values())
    outputs = [one.output for one in configs if getattr(one, "output", None)]
    if len(set(outputs)) < len(outputs):
        raise UserError("runs of a sweep would write over each other's output; give each its own")
    if len(configs) == 1:
        set_threads(configs[0].threads)
        return _gate(command.run(configs[0]))
    if launched():
        raise UserError(
            f"torchrun does one run at a time, and these are {len(configs)}; give "
            f"{' and '.join(sweep_keys(configs))} one value each"
        )
    done: list[dict[str, Any]] = []
    failures: list[str] = []
    exit_code = 0
    pace = _Pace()
    keys = sweep_keys(configs)
    for number, config in enumerate(configs):
        point = sweep_point(config, keys)
        left = pace.left(configs[number:])
        log.info("[%d of %d%s] %s", number + 1, len(configs), left, point)
        start = time.perf_counter()
        set_threads(config.threads)
        try:
            result = command.run(config)
        except Exception as error:
            line = in_one_line(error)
            exit_code = exit_code or (2 if line else 1)
            if line is None:
                log.exception("unexpected")
            line = line or f"unexpected: {type(error).__name__}: {error}"
            log.error("%s: %s; going on with the others", point, line)
            failures.append(f"error: {point}: {' '.join(line.splitlines())}")
            continue
        done.append(result)
        exit_code = exit_code or _gate(result)
        if not result.get("found"):
            pace.add(config, time.perf_counter() - start)
    if done:
        command.close(done, configs[0])
    for failure in failures:
        print(failure, file=sys.stderr)
    return exit_code


def _gate(result: dict[str, Any]) -> int:
    return 3 if result.get("gate") == "failed" else 0


class _Pace:
    """Says how long the rest of a sweep takes, from what its like has taken in it so far."""

    def __init__(self) -> None:
        self.taken: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)

    def add(self, config: Any, seconds: float) -> None:
        """A combination took so long."""
        self.taken[self._kind(config)].append(seconds)

    def left(self, configs: Sequence[Any]) -> str:
        """In words, for what is still to do; nothing before the first combination has ended."""
        means = {kind: fmean(seconds) for kind, seconds in self.taken.items()}
        if not means:
            return ""
        unknown = fmean(means.values())
        seconds = sum(means.get(self._kind(config), unknown) for config in configs)
        minutes = round(seconds / 60)
        time_left = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
        return f", about {time_left} left" if minutes else ", under a minute left"

    @staticmethod
    def _kind(config: Any) -> tuple[str, ...]:
        return config.dataset, config.model, config.method
