"""The error tree in the docstring is the one in the code."""

import inspect as reflection
import re

from update_codec import errors


def test_every_error_is_drawn_where_it_stands() -> None:
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)\b", line)
        if match:
            depth = len(match[1])
            path = [(level, name) for level, name in path if level < depth]
            drawn[match[2]] = path[-1][1] if path else "Exception"
            path.append((depth, match[2]))
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in reflection.getmembers(errors, reflection.isclass)
        if kind.__module__ == errors.__name__
    }
    assert drawn == real
    assert set(errors.__all__) == set(real)
