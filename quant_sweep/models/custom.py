"""A person's own model: any callable that can be imported and returns an `nn.Module`.

`model=custom model.factory=my_package.nets:small model.kwargs={width: 8}` calls `small(width=8)`. Where the callable
has parameters named `num_classes` or `in_channels`, it gets those of the data, unless `kwargs` says otherwise.
Modules in the working directory can be imported, as with `python -m`.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from quant_sweep.errors import InputError
from quant_sweep.runtime.callables import called, imported, parameters_of

__all__ = ["from_callable"]


def from_callable(
    num_classes: int, in_channels: int, factory: str, kwargs: Mapping[str, Any] | None = None
) -> nn.Module:
    """Import `factory` and call it.

    Args:
        num_classes: classes of the data; 0 where nothing says how many there are, and the factory is not told.
        in_channels: channels of the data.
        factory: `package.module:function`; a class will do.
        kwargs: keyword arguments for it, if any.

    Raises:
        InputError: it cannot be imported or called with these arguments, or returns something else than a module.
            What it raises itself passes through.
    """
    if not isinstance(kwargs, Mapping | None):
        raise InputError(f"model.kwargs={kwargs}: allowed is a mapping, {{width: 8}}, or null")
    function = imported("model.factory", factory)
    parameters = parameters_of(function)
    of_data = ({"num_classes": num_classes} if num_classes else {}) | {"in_channels": in_channels}
    arguments = {name: value for name, value in of_data.items() if name in parameters} | dict(kwargs or {})
    model = called("model", factory, function, arguments)
    if not isinstance(model, nn.Module):
        raise InputError(f"model.factory={factory}: returned a {type(model).__name__}; it must return an nn.Module")
    return model
