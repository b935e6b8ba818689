"""From YAML to objects: components by dotted path, and values that change with the step."""

import importlib
from bisect import bisect_right
from dataclasses import fields

from sap3d.errors import UserError

Schedule = float | list[float]  # a constant, or [start_step, start, end, end_step]
Milestones = list[list[int]]  # [[step, value], …]: each value holds from its step on


def build(config: dict, *args):
    """Make the component that a block of the config describes.

    Args:
        config: `target`, the dotted path of a class with a nested dataclass `Config`, and fields of that dataclass.
        args: what the class takes besides its config.

    Raises:
        UserError: no such class, or a key that its Config does not have.
    """
    options = dict(config)
    target = str(options.pop("target", ""))
    module, _, name = target.rpartition(".")
    try:
        component = getattr(importlib.import_module(module), name)
        known = [field.name for field in fields(component.Config)]
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"config: no component '{target}'") from None
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"config: {name} has no '{unknown[0]}' (it has {', '.join(known)})")
    return component(component.Config(**options), *args)


def scheduled(schedule: Schedule, step: int) -> float:
    """Value of a schedule at a step: constant before start_step and after end_step, linear in between."""
    if isinstance(schedule, (int, float)):
        return float(schedule)
    start_step, start, end, end_step = schedule
    fraction = (step - start_step) / max(end_step - start_step, 1)
    return start + (end - start) * min(max(fraction, 0.0), 1.0)


def ever(schedule: Schedule) -> bool:
    """Whether a schedule is above zero at any step."""
    return max(schedule[1:3]) > 0 if isinstance(schedule, list) else schedule > 0


def milestone(table: Milestones, step: int) -> int:
    """The value whose step was reached last; before the first one, the first."""
    return table[max(bisect_right([start for start, _ in table], step) - 1, 0)][1]
