"""What a batch was like in which a model or a loss failed, and what may mend it: beside the library's own words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["note_of"]

_CLASSES = ("expected target dtype", "expected scalar type Long")
_NUMBERS = ("desired output type Long", "Found dtype Long")
_TYPES = ("dtype", "scalar type", "not implemented for")
_BOUNDS = ("out of bounds", "out of range")


def note_of(error: BaseException, batch: Any, *, taken: int) -> str:
    """The batch in words, and hints; one line.

    Args:
        error: What the model or the loss has raised.
        batch: Of (inputs, targets), more parts, or a mapping.
        taken: How many of the parts the model gets.
    """
    parts = list(_parts(batch))
    said = ", ".join(f"{name} {_said(value)}" for name, value in parts)
    if not isinstance(batch, Mapping) and len(parts) > 2:
        said += f", of which the model gets {taken} and the loss {len(parts) - taken}"
    return "; ".join((f"the batch has {said}", *_hints(str(error), batch, parts)))


def _hints(text: str, batch: Any, parts: Sequence[tuple[str, Any]]) -> Iterator[str]:
    if any(words in text for words in _CLASSES):
        yield "classes are whole numbers, such as y.astype('int64')"
    elif any(words in text for words in _NUMBERS):
        yield "this loss compares with floats, such as y.astype('float32')"
    elif any(words in text for words in _TYPES):
        dtypes = {str(getattr(value, "dtype", "")) for _, value in parts[:-1]}
        if any(map(_is_whole, dtypes)):
            yield "where the model wants floats, give astype('float32'), of the bytes of pictures over 255"
        if dtypes & {"torch.float64", "torch.float16"}:
            yield "give inputs the type of the model's weights, such as float32"
    if "multi-target" in text:
        yield "classes are one number for each row, such as y[:, 0]"
    if any(words in text for words in _BOUNDS):
        yield "classes and tokens are numbered from 0, and are fewer than the model's outputs or entries"
    if isinstance(batch, Mapping) and "not dict" in text:
        yield "the model's forward has no argument of these names, and gets the whole dict"
    if any(isinstance(value, list | tuple) for _, value in parts):
        yield "a data set gives tensors, arrays or numbers, which are stacked"


def _is_whole(dtype: str) -> bool:
    return dtype.startswith(("torch.int", "torch.uint", "torch.bool"))


def _parts(batch: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(batch, Mapping):
        yield from ((str(name), value) for name, value in batch.items())
    elif isinstance(batch, tuple | list):
        names = ("input", "target") if len(batch) == 2 else [f"part {place}" for place in range(len(batch))]
        yield from zip(names, batch, strict=True)


def _said(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        dtype = str(value.dtype).removeprefix("torch.")
        span = f" from {value.min()} to {value.max()}" if _is_whole(str(value.dtype)) and value.numel() else ""
        return f"{dtype}{list(value.shape)}{span}"
    size = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"{type(value).__name__}{size}"
