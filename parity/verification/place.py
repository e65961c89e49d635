"""In which numbers an implementation computes, and where; and the arrays that go in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from parity.bounds.rounding import SHIPPED, Array

Inputs = Mapping[str, Array]
Settings = Mapping[str, Any]
Outputs = dict[str, Array]
Device = Literal["auto", "cpu", "gpu", "tpu"]
Dtype = Literal["float32", "float64", "bfloat16"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Lazy(Mapping[str, Array], Generic[T]):
    """Arrays that are made whenever they are read, so that a large model's do not all lie in memory."""

    source: Mapping[str, T]
    make: Callable[[str, T], Array]

    def __getitem__(self, key: str) -> Array:
        return self.make(key, self.source[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.source)

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Place:
    """In which numbers, and where."""

    dtype: str
    """float64, float32, bfloat16; tf32: float32 whose products may use TF32; shipped-...: float32 whose
    products the framework takes as it likes (see parity.bounds.rounding.SHIPPED)."""
    device: Device = "cpu"
    eager: bool = False
    """JAX operation by operation: slower once, and much faster when the same shapes come again."""

    @property
    def number(self) -> Dtype:
        """The dtype of arrays."""
        return "float32" if self.tf32 or self.shipped else self.dtype  # type: ignore[return-value]

    @property
    def tf32(self) -> bool:
        """Whether products may use TF32."""
        return self.dtype == "tf32"

    @property
    def shipped(self) -> bool:
        """Whether the framework's own default precision is left alone."""
        return self.dtype.startswith(SHIPPED)
