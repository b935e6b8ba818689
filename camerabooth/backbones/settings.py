"""What a backbone is run and tuned with; it travels with the weights in a saved model's settings.json."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from sap3d.errors import UserError
from sap3d.files import write_json

FILE = "settings.json"
Options = TypeVar("Options", bound="Settings")


@dataclass(frozen=True)
class Settings:
    """How a backbone is run and tuned. Each has defaults of its own; its folder holds what it was last run with."""

    image_size: int  # pixels a side
    knows_mask: bool  # false: it sees and makes colours alone; the alpha of its views is a guess
    dtype: str  # of frozen weights and of the arithmetic; auto: bf16 autocast where that is fast
    energy_of: str  # errors of what judge poses: the conditional "mean", or "noise" predictions at energy_timesteps
    energy_timesteps: tuple[int, ...]  # at which they are taken
    guidance_scale: float  # classifier-free, of distillation
    contrast: float  # of the masks of views that stage 3 expects: a mean's silhouettes fade out
    tuning: dict[str, Any] = field(default_factory=dict)  # for what is null in `tuning` of configs/sap3d.yaml
    sampling: dict[str, Any] = field(default_factory=dict)  # likewise, in `novel_views`

    def changed(self: Options, **changes: Any) -> Options:
        """With what is not None in `changes`, nor in their mappings, of which only what is given changes.

        Raises:
            UserError: this backbone has no such setting.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        known = [each.name for each in fields(self)]
        for name in changes:
            if name not in known:
                raise UserError(f"model.{name}: this backbone has no such setting (it has {', '.join(known)})")
        for name, value in changes.items():
            if isinstance(getattr(self, name), dict):
                given = {key: each for key, each in value.items() if each is not None}
                changes[name] = getattr(self, name) | given
        return replace(self, **changes)

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, asdict(self))

    def read(self: Options, folder: Path) -> Options:
        """What a model's folder says, and of what it does not say, this.

        Raises:
            UserError: a damaged file.
        """
        path = folder / FILE
        if not path.exists():
            return self
        try:
            found = json.loads(path.read_text())
            return replace(self, **{name: tuple(v) if isinstance(v, list) else v for name, v in found.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not settings of this backbone ({error})") from error
