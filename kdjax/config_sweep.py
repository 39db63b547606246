"""The fields `sweep` and `sweep_seeds`: the settings, and the seeds of the chosen one."""

import itertools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from kdjax import field_types
from kdjax.config_checks import MAX_SEED
from kdjax.errors import InputError

# Most settings of a sweep, and most seeds: all of them are in memory, and in one program.
MAX_SETTINGS = 64
_EXAMPLE = """--config.sweep='{"objective.payoff": [1.5, 2.2]}'"""

Grid = Mapping[str, Sequence[Any]]


def canonical(value: Any, defaults: Mapping[str, Any]) -> str:
    """Returns a sweep as JSON text, with the fields in alphabetical order and values of their type.

    Args:
        value: a mapping of fields to lists of values, several of them in a tuple, or JSON text.
        defaults: of the fields of the config, by dotted name. Values of other fields are kept.

    Returns:
        Empty without a sweep.

    Raises:
        InputError: for another form, a field without values or with a value twice, or fewer than
            two or more than `MAX_SETTINGS` settings.
    """
    if isinstance(value, str):
        value = _from_json(value)
    if not value and not isinstance(value, int | float):  # 0 and false are no empty sweep
        return ""
    grids = [_typed(grid, defaults) for grid in _as_grids(value)]
    count = sum(math.prod(map(len, grid.values())) for grid in grids)
    if count < 2:
        raise InputError(f"sweep {value!r} has a single setting: give a field several values")
    if count > MAX_SETTINGS:
        raise InputError(
            f"sweep: {count:,} settings (products of the numbers of values) are too many: at most "
            f"{MAX_SETTINGS} are trained together"
        )
    return json.dumps(grids if len(grids) > 1 else grids[0], sort_keys=True)


def settings(text: str) -> list[dict[str, Any]]:
    """Returns the changed fields of each setting: all combinations of values, grid after grid.

    Args:
        text: of `canonical`.
    """
    parsed = json.loads(text)
    return [
        dict(zip(grid, values, strict=True))
        for grid in (parsed if isinstance(parsed, list) else [parsed])
        for values in itertools.product(*grid.values())
    ]


def _from_json(text: str) -> Any:
    if not text.strip():
        return ""
    try:
        return field_types.parse_json(text, "sweep", "write all values in one list")
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"sweep {text!r} is not JSON ({error}): write {_EXAMPLE}") from error


def _as_grids(value: Any) -> list[Grid]:
    grids = [value] if isinstance(value, Mapping) else value
    if not isinstance(grids, (list, tuple)) or not all(map(_is_grid, grids)):
        raise InputError(
            f"sweep {value!r} is not a mapping of fields to lists of values: write {_EXAMPLE}"
        )
    return list(grids)


def _is_grid(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(key, str) for key in value)


def _typed(grid: Grid, defaults: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {field: _typed_values(field, grid[field], defaults) for field in sorted(grid)}


def _typed_values(field: str, values: Any, defaults: Mapping[str, Any]) -> list[Any]:
    """Returns the values of a field as its type, so that 2 and 2.0 are the same setting."""
    if not isinstance(values, (list, tuple)):
        raise InputError(f"sweep: {field} {values!r} is not a list of values: write {_EXAMPLE}")
    if not values:
        raise InputError(f"sweep: {field} has no values")
    plain = [field_types.json_object(value) for value in values]
    if field in defaults:
        plain = [field_types.convert(f"sweep: {field}", v, defaults[field]) for v in plain]
    for index, value in enumerate(plain):
        if not isinstance(value, (str, int, float, bool)):
            raise InputError(f"sweep: {field} {value!r} is not a number, a text, true or false")
        if value in plain[:index]:
            raise InputError(f"sweep: {field} has the value {value!r} twice")
    return plain


def seeds_text(value: Any) -> Any:
    """Returns a tuple or list of seeds, or a count, as text; other values unchanged.

    A list ends with a comma, which distinguishes the seed `7,` from the count `7`.
    """
    if isinstance(value, (tuple, list)):
        return "".join(f"{seed}," for seed in value)
    count = None if isinstance(value, str) else field_types.integer(value)
    return value if count is None else str(count) if count else ""


def canonical_seeds(text: str, sweep: str, first: int) -> str:
    """Returns the seeds with which the chosen setting is trained again, each followed by a comma.

    Args:
        text: seeds separated by commas, or their number n: the next n above `first`, without those
            of the sweep.
        sweep: of `canonical`.
        first: the seed of the run.

    Raises:
        InputError: without a sweep, or for a seed that is no integer, out of range, given twice, or
            one of the sweep.
    """
    if text and not sweep:
        raise InputError(f"sweep_seeds {text!r} has no effect without sweep")
    used = {setting.get("seed", first) for setting in settings(sweep)} if sweep else set()
    parts = [part.strip() for part in text.split(",")]
    numbers = [field_types.integer(part) for part in parts if part]
    seeds = [number for number in numbers if number is not None]
    if len(seeds) < len(numbers):
        raise InputError(
            f"sweep_seeds {text!r} must be a number of seeds, such as 3, or seeds, such as 1,2,3"
        )
    if "," not in text and seeds:
        if seeds[0] < 0:
            raise InputError(f"sweep_seeds {seeds[0]} is out of range: it must be at least 0")
        above = (seed for seed in itertools.count(first + 1) if seed not in used)
        seeds = list(itertools.islice(above, min(seeds[0], MAX_SETTINGS + 1)))
    _check_seeds(seeds, used)
    return "".join(f"{seed}," for seed in seeds)


def _check_seeds(seeds: Sequence[int], used: Collection[int]) -> None:
    if len(seeds) > MAX_SETTINGS:
        raise InputError(f"sweep_seeds: at most {MAX_SETTINGS} seeds are trained together")
    for index, seed in enumerate(seeds):
        if not 0 <= seed <= MAX_SEED:
            raise InputError(f"sweep_seeds {seed} is out of range: must be from 0 to {MAX_SEED}")
        if seed in used:
            raise InputError(
                f"sweep_seeds {seed} is a seed of the sweep itself, by which the setting is "
                "chosen: give other seeds"
            )
        if seed in seeds[:index]:
            raise InputError(f"sweep_seeds: seed {seed} is given twice")


def parse_seeds(text: str) -> list[int]:
    """Returns the seeds of the text of `canonical_seeds`."""
    return [int(part) for part in text.split(",") if part]
