"""Lets flows share parameters: each has one flat form in Prefect's UI, and what they have in common is written once."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from prefect.utilities.callables import parameter_docstrings

_Flow = TypeVar("_Flow", bound=Callable[..., Any])
_ARGS = "\n\nArgs:\n"


def with_parameters_of(pattern: Callable[..., Any], *, but: str) -> Callable[[_Flow], _Flow]:
    """Give a flow function that ends in `**shared` the parameters of another, descriptions included, but for one and for those it has."""

    def decorate(function: _Flow) -> _Flow:
        own = inspect.signature(function)
        kept = [parameter for parameter in own.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        others = [parameter for name, parameter in inspect.signature(pattern).parameters.items() if name not in {but, *own.parameters}]
        shared = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in others]
        function.__signature__ = own.replace(parameters=[*kept, *shared])  # type: ignore[attr-defined]  # `inspect` heeds it, as Prefect does
        function.__doc__ = _describe(function, pattern, [parameter.name for parameter in shared])
        return function

    return decorate


def _describe(function: Callable[..., Any], pattern: Callable[..., Any], shared: list[str]) -> str:
    """The docstring of the function with what is said of the shared parameters."""
    text = inspect.getdoc(function) or ""
    said = parameter_docstrings(inspect.getdoc(pattern))
    more = [f"    {name}: {' '.join(said[name].split())}\n" for name in shared if name in said]
    return f"{text.rstrip()}\n{''.join(more)}" if _ARGS in text else f"{text}{_ARGS}{''.join(more)}"
