"""A device that is pretended: tensors say that they lie there, and mixing them with the CPU's raises, as on a GPU.

What computes is the CPU, so that whole stages run, whatever depends on values. The device is called `meta`, as torch
knows that without hardware.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

DEVICE = torch.device("meta")
# Copies between devices; and what is indexed may lie elsewhere than numbers that index it, if those lie on the CPU.
COPIES = ("_to_copy", "copy_")
FROM_DATA = torch.tensor
INDEXED = ("index", "index_put_", "_unsafe_index", "_index_put_impl_", "index_put")


class There(torch.Tensor):
    """A tensor on the pretended device."""

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "There":
        shape = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        there = cls._make_wrapper_subclass(cls, values.shape, **shape, dtype=values.dtype, device=DEVICE)
        there.values = values
        return there

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})

    # Torch would make a tensor of a list of numbers itself, on `meta`, where it has no values.

    def __getitem__(self, index: object) -> torch.Tensor:
        return super().__getitem__(known(index))

    def __setitem__(self, index: object, value: object) -> None:
        super().__setitem__(known(index), value)

    def __repr__(self) -> str:
        return f"There({self.values})"

    def tolist(self) -> list:
        return self.values.tolist()

    def numpy(self, **_):
        raise TypeError("can't convert a tensor of another device to numpy: use Tensor.cpu() first")


def known(index: object) -> object:
    """An index, or several, with lists as tensors."""
    if isinstance(index, tuple):
        return tuple(map(known, index))
    return FROM_DATA(index) if isinstance(index, list) else index


class Generator(torch.Generator):
    """A generator that may draw there."""

    there: list["Generator"] = []  # kept, so that no address is used twice

    def __new__(cls, device: torch.device | str = "cpu") -> "Generator":
        generator = super().__new__(cls, "cpu")
        if torch.device(device) == DEVICE:
            cls.there.append(generator)
        return generator

    @property
    def device(self) -> torch.device:
        return home(self)


def home(generator: torch.Generator) -> torch.device:
    """Where a generator draws; torch hands on another object for the same one."""
    there = any(generator._cdata == known._cdata for known in Generator.there)
    return DEVICE if there else torch.device("cpu")


class Pretended(TorchDispatchMode):
    """Operations that make tensors from nothing, or move them there."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})


def compute(operation, args: tuple, kwargs: dict):
    """An operation on the CPU's values, whose results lie where its arguments do or where it is told."""
    name = operation.overloadpacket.__name__
    flat, form = tree_flatten((args, kwargs))
    tensors = [each for each in flat if isinstance(each, torch.Tensor)]
    there = any(isinstance(each, There) for each in tensors)
    if any(each.device == DEVICE and not isinstance(each, There) for each in tensors):
        raise RuntimeError(f"{name}: a tensor without values")
    others = [each for each in tensors if not isinstance(each, There) and each.dim()]
    if name in INDEXED:
        held = [args[0], *(args[2:3] if "put" in name else ())]
        others = [each for each in others if any(each is one for one in held)]
    if there and others and name not in COPIES:
        raise RuntimeError(f"{name}: tensors on both devices")
    target = DEVICE if there else torch.device("cpu")
    if kwargs.get("device") is not None:
        target = torch.device(kwargs["device"])
    generator = kwargs.get("generator")
    if generator is not None and home(generator) != target:
        raise RuntimeError(f"{name}: a generator of {home(generator)} for {target}")
    flat = [each.values if isinstance(each, There) else each for each in flat]
    flat = [torch.device("cpu") if isinstance(each, torch.device) else each for each in flat]
    own_args, own_kwargs = tree_unflatten(flat, form)
    result = operation(*own_args, **own_kwargs)
    if name.endswith("_") and not name.endswith("__") and isinstance(args[0], torch.Tensor):
        return args[0]
    wrap = target == DEVICE
    return tree_map(lambda each: There(each) if wrap and isinstance(each, torch.Tensor) else each, result)


def there(data: object, device: torch.device | str | None = None, **options: object) -> torch.Tensor:
    """`torch.tensor`, which dispatches nothing. Where networks are made without values, its own are so, too."""
    made = FROM_DATA(data, **options)
    return made if device is None else made.to(device)


def beside(tensor: torch.Tensor, data: object) -> torch.Tensor:
    """`Tensor.new_tensor`, likewise."""
    return there(data, tensor.device, dtype=tensor.dtype)


@contextmanager
def pretended() -> Iterator[torch.device]:
    """The device, while it is there."""
    with torch.device("cpu"):
        torch.empty(0)  # torch remembers its constructors at the first use of such a block: these, not those below
    with pytest.MonkeyPatch.context() as patch, Pretended():
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "tensor", there)
        patch.setattr(torch.Tensor, "new_tensor", beside)
        yield DEVICE
