"""Which parts of an encoder learn how fast, and which not at all: what fine-tuning needs."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from chns.core import ConfigError, in_short


def freeze_and_rate(encoder: nn.Module, rates: Mapping[str, float]) -> dict[int, float]:
    """Freeze the parameters of rate 0, and tell the rates of the others.

    A batch normalisation that is frozen whole, its running statistics fitting the pattern too as in ``"front.*"``,
    keeps them: whatever mode the encoder is in, it normalises as in evaluation, and its ``keeps_statistics`` is true.

    Args:
        encoder: Its parameters of rate 0 lose their gradient, in place.
        rates: Share of the learning rate by pattern of names, as of `fnmatch.fnmatchcase`; the last that fits counts.

    Returns:
        The rate of each parameter that is named and learns, by its ``id``.

    Raises:
        ConfigError: If a rate is not between 0 and 1, a pattern fits no parameter, or nothing is left to learn.
    """
    _require_meaning([name for name, _ in encoder.named_parameters()], rates)
    found = {}
    for name, parameter in encoder.named_parameters():
        rate = _rate(name, rates)
        if rate == 0:
            parameter.requires_grad_(False)
        elif rate != 1:
            found[id(parameter)] = rate
    for name, module in encoder.named_modules():
        if _is_frozen_norm(name, module, rates):
            module.register_forward_pre_hook(_evaluates)
            module.keeps_statistics = True
    return found


def learns_statistics(encoder: nn.Module, rates: Mapping[str, float]) -> bool:
    """Whether the encoder has a batch normalisation that these rates do not freeze whole, see `freeze_and_rate`."""
    norms = {name: module for name, module in encoder.named_modules() if isinstance(module, _BatchNorm)}
    return not all(_is_frozen_norm(name, norm, rates) for name, norm in norms.items())


def _is_frozen_norm(name: str, module: nn.Module, rates: Mapping[str, float]) -> bool:
    learning = [part for part, parameter in module.named_parameters() if parameter.requires_grad]
    return isinstance(module, _NormBase) and all(
        _rate(f"{name}.{part}", rates) == 0 for part in ("running_mean", *learning)
    )


def _require_meaning(names: list[str], rates: Mapping[str, float]) -> None:
    for pattern, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ConfigError(f"optimizer.rates must be between 0 and 1, got {rate} for {pattern!r}.")
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"optimizer.rates must name parameters of the encoder, got {pattern!r}, which fits none of its "
                f"{len(names)}. Take patterns such as {in_short(', '.join(_parts(names)))}."
            )
    if not any(_rate(name, rates) for name in names):
        raise ConfigError("optimizer.rates must let some of the encoder learn, got 0 for all. Raise one of them.")


def parameter_groups(
    parameters: list[nn.Parameter], rates: Mapping[int, float], *, peak: float
) -> list[dict[str, Any]]:
    """Groups of an optimiser: the full learning rate first.

    Args:
        parameters: All that learn.
        rates: Share of the learning rate by ``id`` of the parameter; 1 for those that it lacks.
        peak: The learning rate.
    """
    grouped: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        grouped.setdefault(rates.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": grouped[rate], "lr": rate * peak} for rate in sorted(grouped, reverse=True)]


def _rate(name: str, rates: Mapping[str, float]) -> float:
    fitting = [rate for pattern, rate in rates.items() if fnmatchcase(name, pattern)]
    return fitting[-1] if fitting else 1.0


def _parts(names: list[str]) -> list[str]:
    """Patterns of the encoder's parts, in their order."""
    return list(dict.fromkeys(f"{name.partition('.')[0]}.*" if "." in name else name for name in names))


def _evaluates(norm: nn.Module, _: object) -> None:
    norm.eval()
