"""Unlearning in blocks of rows, by one process or several: `stream=on`.

What leace and barycentre know of the users is a sum over them, the classes' moments (C classes, d
dimensions: C d² numbers). So a first pass over the shards adds these up, and a last one writes
every shard edited; neither holds more than a block. calibrated needs four passes more, and holds
some users (methods.calibrated_passes). Of N processes (`torchrun`) number r takes the shards r,
r + N, r + 2 N, ..., and the sums go over all. In the output folder:

    NAME                a shard a shard of the input, each written beside and renamed
    moments.npz         counts (C,), means (C, d), scatters (C, d, d), or what calibrated knows, and
                        the classes' numbers (C,)
    eraser.safetensors  leace's map, for users who come later (eraser=FILE)
    manifest.json       what it is made of; then, once all is there, what came out
    stream.log          what was printed, with times
    .pass-K-*.npz       what pass K of several has learnt, until the moments are there

The manifest is there before the first shard. So the same command goes on where it was interrupted,
with the same moments, whatever the number of processes; any other command is refused there.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import PLUS, classes_apart, names_in, with_unknown
from data.tables.files import OWN_NAME
from data.tables.formats import read_arrays
from data.tables.labels import MOST_CLASSES, check_least
from data.tables.shard_formats import (
    ERASER,
    MANIFEST,
    SHARDS,
    open_shard,
    shard_paths,
)
from data.tables.shard_labels import Shards, labels_of
from data.tables.shards import Shard, block_bounds
from methods import METHODS
from methods.eraser_files import About, save_eraser
from methods.leace import AffineEraser, Erasing
from methods.passes import Arrays, Edit, Once, Users
from methods.several import FEWEST
from methods.stamps import check_same, check_unchanged, stamps
from utils.config import AttackConfig, RunConfig
from utils.errors import UserError
from utils.messages import command_for, remarks
from utils.ranks import SAME_KEYS, Ranks, joined
from utils.runs.files import file_checksum, read_json_object, replace_file, write_json
from utils.runs.locks import locked
from utils.runs.logs import log_file
from utils.runtime import environment, peak_memory_mb

log = logging.getLogger(__name__)

MOMENTS, LOG = "moments.npz", "stream.log"

VERSION = 5
"""Of the manifest; another one's folder is not gone on with."""


def stream(config: RunConfig) -> dict[str, Any]:
    """Edit the shards of a config with stream=on; returns what came out.

    Raises:
        UserError: shards or labels that don't fit, a value that is not finite, an output folder of
            something else; with the rank that found it, where there are several.
    """
    start = time.perf_counter()
    assert config.output
    target, method = Path(config.output), METHODS[config.method]
    how = method.streamed
    assert how  # checked at the door
    with joined() as ranks, contextlib.ExitStack() as held:
        ranks.check_same(asdict(config), SAME_KEYS)
        users = look(config, ranks)
        ranks.agree(lambda: check_combinations(config, users))
        made_of = described(config, users)
        begun = ranks.told(lambda: claim(config, ranks, made_of, held))
        ranks.agree(lambda: check_shared(target))
        ranks.alone(lambda: announce(method.title, users, target))
        if not begun:
            once = keeper(target, made_of, ranks)
            own = how.learn(users, method.options_of(config), config.seed, once)
            ranks.alone(lambda: begin(target, made_of, own, users))
        known = ranks.agree(lambda: learnt(target, how.kept))  # as the first rank has it
        edit = ranks.agree(lambda: how.edit(known))
        ranks.alone(lambda: keep_eraser(config, users, edit))
        ranks.alone(lambda: warn_of_nothing_left(edit))
        written = write(users, edit, target, ranks)
        ranks.alone(lambda: check_whole(config, users))
        ranks.alone(lambda: finish(target, users, written, time.perf_counter() - start))
        audit = {"attack": "audit", "user_embedding": config.output, "labels": config.labels}
        audit |= {"attribute": config.attribute, "table": config.table}
        ranks.alone(lambda: log.info("Next: %s", command_for("attack.py", AttackConfig, audit)))
    return {"config": asdict(config), "seconds": time.perf_counter() - start}


def look(config: RunConfig | AttackConfig, ranks: Ranks) -> Users:
    """Headers of all shards, and which classes there are; each rank opens its own alone."""
    source = Path(config.user_embedding or "")
    paths = ranks.agree(lambda: shard_paths(source))
    own = ranks.agree(lambda: stamps(config, paths))
    theirs = ranks.told(lambda: own)
    ranks.agree(lambda: check_same(config, own, theirs))
    files: dict[int, Shard] = {}
    shapes = np.zeros((len(paths), 2))

    def headers() -> Iterator[int]:
        for shard in ranks.own(len(paths)):
            ranks.at(str(paths[shard]))
            files[shard] = open_shard(paths[shard], config.table)
            shapes[shard] = files[shard].shape
            yield 0

    ranks.together(headers())
    shapes = ranks.sum(shapes).astype(np.int64)
    first = paths[int((shapes[:, 0] > 0).argmax())]
    like = ranks.agree(lambda: open_shard(first, config.table))
    ranks.agree(lambda: check_alike(files.values(), like))
    shards = Shards(source, paths, shapes[:, 0], files, like.has_ids)
    labels, names = labels_of(ranks, shards, Path(config.labels or ""), config.attribute)
    counts = np.zeros(MOST_CLASSES, np.int64)

    def classes() -> Iterator[int]:
        for shard, file in files.items():
            for start, stop in block_bounds(file.shape[0], 1):
                counts[:] += count(labels[shard](start, stop), file.path)
                yield stop - start

    ranks.together(classes(), "labels", shards.total)
    counts = ranks.sum(counts).astype(np.int64)
    numbers = np.flatnonzero(counts)
    found = [names[number] if names else number for number in numbers.tolist()]
    ranks.agree(lambda: check_classes(config, found))
    named = [str(name) for name in found]
    return Users(ranks, paths, shapes, files, labels, counts[numbers], numbers, named, own)


def check_alike(shards: Iterable[Shard], like: Shard) -> None:
    """Refuse shards of other dimensions or columns, or with ids where others have none.

    Args:
        shards: this rank's; one of nobody has no ids and may not say its dimensions.
        like: what they are to be like.
    """
    for shard in shards:
        if shard.shape != (0, 0) and shard.shape[1] != like.shape[1]:
            raise UserError(
                f"{shard.path} has {shard.shape[1]} dimensions, {like.path} has {like.shape[1]}; "
                "put shards of one table alone into the folder"
            )
        pairs = zip(shard.columns, like.columns, strict=False)
        if other := next((pair for pair in pairs if pair[0] != pair[1]), None):
            raise UserError(
                f'{shard.path} has the column "{other[0]}" where {like.path} has "{other[1]}"; '
                "write both with the same columns"
            )
        if shard.shape[0] and shard.has_ids != like.has_ids:
            one, none = (shard, like) if shard.has_ids else (like, shard)
            raise UserError(
                f"{one.path} has ids, and {none.path} has none, or its own count of the rows; "
                "write all shards with a column user_id, or none"
            )


def count(labels: np.ndarray, path: Path) -> np.ndarray:
    """(MOST_CLASSES,) users of each number.

    Raises:
        UserError: a number that is too large for a class.
    """
    known = labels[labels >= 0]
    if known.size and known.max() >= MOST_CLASSES:
        raise UserError(
            f"the labels of {path} have the class {known.max()}; classes are the numbers 0 to "
            f"{MOST_CLASSES - 1}, and negative ones are unknown"
        )
    return np.bincount(known.astype(int), minlength=MOST_CLASSES)


def check_classes(config: RunConfig | AttackConfig, classes: Sequence[Any]) -> None:
    """Refuse an attribute, or one of several, that tells nobody apart."""
    path = Path(config.labels or "")
    check_least(path, config.attribute, classes)
    for name, of_part in classes_apart(names_in(config.attribute), classes).items():
        check_least(path, name, of_part)


def check_combinations(config: RunConfig, users: Users) -> None:
    """Refuse several attributes where one would be hidden after the other, as in memory."""
    fewest = int(users.counts.argmin())
    if PLUS in config.attribute and users.counts[fewest] < FEWEST:
        raise UserError(
            f'of "{config.attribute}" the combination {users.names[fewest]} has '
            f"{users.counts[fewest]} users; stream=on needs {FEWEST} of each: group the classes, "
            "or leave stream=on out"
        )


def described(config: RunConfig, users: Users) -> dict[str, Any]:
    """What an output folder is made of: another size, time or setting makes another one."""
    options = METHODS[config.method].options_of(config)
    drawn = {"options": asdict(options), "seed": config.seed} if options else {}
    return {
        "version": VERSION,
        "method": config.method,
        **drawn,
        "attribute": config.attribute,
        "input": str(config.user_embedding),
        "table": config.table,
        **users.stamps,
    }


def check_shared(target: Path) -> None:
    """Refuse an output folder that is another one for this rank than for the first."""
    if not (target / LOG).exists():
        raise UserError(
            f"{target} has no {LOG} here, which rank 0 has begun there; every rank has to see the "
            "same output folder"
        )


def announce(title: str, users: Users, target: Path) -> None:
    """Say what is begun."""
    size, shards = users.ranks.size, len(users.paths)
    by = f", by {size} processes" if size > 1 else ""
    log.info("%s of %d users in %d shards%s: %s", title, users.total, shards, by, target)
    if size > shards:
        log.warning("%d of %d processes have no shard; start fewer", size - shards, size)


def claim(
    config: RunConfig, ranks: Ranks, made_of: Mapping[str, Any], held: contextlib.ExitStack
) -> bool:
    """Lock the output folder and begin its log; returns whether this work was begun there.

    Raises:
        UserError: it is something else's, damaged, or in use.
    """
    target = Path(config.output or "")
    target.mkdir(parents=True, exist_ok=True)
    # of several processes the others would take waiting for silence
    held.enter_context(locked(target, config.busy if ranks.size == 1 else "end"))
    path = target / MANIFEST
    if path.exists():
        if not (before := read_json_object(path)):
            raise UserError(f"{path} is damaged; move {target} away to begin anew")
        if other := [name for name in made_of if before.get(name) != made_of[name]]:
            raise UserError(
                f"{target} was made with other {' and '.join(other)} ({MANIFEST} there says which);"
                " name another output, or move it away"
            )
        if before["moments"] != file_checksum(target / MOMENTS):
            raise UserError(f"{target / MOMENTS} is damaged; move {target} away to begin anew")
    elif there := next((one for one in target.iterdir() if one.suffix.lower() in SHARDS), None):
        raise UserError(
            f"{there} is there, and no {MANIFEST} that says what it is; name another output"
        )
    held.enter_context(log_file(target / LOG))
    return path.exists()


def learnt(target: Path, kept: type) -> Any:
    """What the work that was begun in this folder has learnt of the users, in each rank."""
    arrays = read_arrays(target / MOMENTS)
    return kept(**{field.name: arrays[field.name] for field in fields(kept)})


def keeper(target: Path, made_of: Mapping[str, Any], ranks: Ranks) -> Once:
    """Keeps what a pass has learnt in a file of the output folder; those of other inputs or
    settings have other names.
    """
    mark = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]

    def once(name: str, work: Callable[[], Arrays]) -> Arrays:
        path = target / f".{name}-{mark}.npz"
        if ranks.told(lambda: _is_whole(path)):
            kept = ranks.agree(lambda: read_arrays(path))
            ranks.alone(lambda: log.info("  %s was done before the work was interrupted", name))
            return kept
        arrays = work()
        ranks.alone(lambda: save_arrays(path, arrays))
        return arrays

    return once


def _is_whole(path: Path) -> bool:
    """Whether a pass's file is there; one that a disk has damaged is made again."""
    try:
        return bool(path.exists() and read_arrays(path))
    except UserError:
        return False


def save_arrays(path: Path, arrays: Arrays) -> None:
    """A .npz file, whole or not at all."""
    with replace_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def begin(target: Path, made_of: Mapping[str, Any], known: Any, users: Users) -> None:
    """Write what was learnt, then the manifest, which makes the folder this work's."""
    arrays = {field.name: getattr(known, field.name) for field in fields(known)}
    save_arrays(target / MOMENTS, {"numbers": users.numbers, **arrays})
    write_json(target / MANIFEST, {**made_of, "moments": file_checksum(target / MOMENTS)})
    for path in target.glob(".pass-*.npz"):
        path.unlink()


def keep_eraser(config: RunConfig, users: Users, edit: Edit) -> None:
    """Write the map that can be given to users who come later, if this is one."""
    if isinstance(edit, Erasing):
        target = Path(config.output or "")
        widths = {OWN_NAME: users.dimensions}
        known, moments = int(users.counts.sum()), file_checksum(target / MOMENTS)
        about = About(config.method, config.attribute, known, moments)
        eraser = AffineEraser(widths, edit, {}, [])
        save_eraser(target / ERASER, eraser, about)
        log.info("  for users who come later: eraser=%s", target / ERASER)


def warn_of_nothing_left(edit: Edit) -> None:
    """As a run in memory does."""
    if isinstance(edit, Erasing):
        for said in remarks({"directions_left": edit.directions_left}):
            log.warning("%s", said)


def write(users: Users, edit: Edit, target: Path, ranks: Ranks) -> np.ndarray:
    """The last pass: every shard that isn't there yet, edited.

    Returns:
        (3,) of all ranks: users written, Σ ‖x' - x‖², Σ ‖x‖² of these.

    Raises:
        UserError: an edited value that the shard's dtype can't hold.
    """
    written = np.zeros(3)

    def part() -> Iterator[int]:
        for shard, file in users.files.items():
            ranks.at(str(file.path))
            path = target / file.path.name
            if file.is_written(path):
                yield file.shape[0]
                continue

            def edit_block(x: np.ndarray, row: int, shard: int = shard) -> np.ndarray:
                whole = x.astype(np.float64)
                classes = users.classes(shard, row, row + len(x))
                edited = edit(whole, classes, users.first(shard) + row)
                change = edited - whole
                sums = [len(x), np.vdot(change, change), np.vdot(whole, whole)]
                written[:] += np.array(sums)
                return edited

            yield from file.rewritten(path, edit_block)

    ranks.together(part(), "last pass, writing", users.total)
    return ranks.sum(written)


def check_whole(config: RunConfig, users: Users) -> None:
    """Refuse to call done what is not all there, or of files that have changed meanwhile.

    Raises:
        UserError: says which file.
    """
    check_unchanged(config, users.stamps, stamps(config, users.paths))
    for path in users.paths:
        if not (written := Path(config.output or "", path.name)).exists():
            raise UserError(
                f"{written} was written and is not there; was it moved, or is the output folder "
                "another one for some ranks?"
            )


def finish(target: Path, users: Users, written: np.ndarray, seconds: float) -> None:
    """Say what came out, and add it to the manifest of a folder that wasn't whole."""
    rows, change, norm = written
    classes = dict(zip(users.names, users.counts.tolist(), strict=True))
    classes = with_unknown(classes, users.total)
    manifest = read_json_object(target / MANIFEST) or {}
    if not rows and "made" in manifest:
        log.info("  all shards were there already")
        return
    sizes = {"users": users.total, "dimensions": users.dimensions}
    made = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(torch.device("cpu")),
    }
    write_json(target / MANIFEST, manifest | sizes | {"users_of_class": classes} | made)
    log.info("  users of each class: %s", ", ".join(f"{name} {n}" for name, n in classes.items()))
    log.info(
        "  %d users written in %.2f s, %d were there; moved by %.3f of their norm",
        rows,
        seconds,
        users.total - rows,
        (change / norm) ** 0.5 if change else 0.0,
    )
    if peak := peak_memory_mb():
        log.info("  peak memory %.0f MiB", peak)
