"""`python -m evidence.course`: write the pages of docs/course that are made from code."""

from __future__ import annotations

import sys

from evidence.course.files import FILES


def main() -> int:
    """Write them all; says which changed."""
    for path, make in FILES.items():
        text = make()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
