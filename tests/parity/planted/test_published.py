"""The kill matrix that the documents show is the one that was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.planted import kill_matrix
from parity.planted.catalogue import BUGS
from parity.planted.kill_matrix import CONTROL, Outcome


@pytest.fixture(scope="module")
def published() -> list[Outcome]:
    """The outcomes that docs/self_test.md and README.md speak of."""
    return kill_matrix.read(json.loads(Path("docs/self_test.json").read_text(encoding="utf-8")))


def test_the_published_matrix_is_has_every_planting(published: list[Outcome]) -> None:
    assert [o for o in published if not o.as_it_should_be] == []
    shown = {(o.bug, o.backend) for o in published if o.group != CONTROL}
    assert shown == {(name, side) for name, bug in BUGS.items() for side in bug.edits}


def test_the_documents_show_the_published_matrix(published: list[Outcome]) -> None:
    assert kill_matrix.render(published) in Path("docs/self_test.md").read_text(encoding="utf-8")
    bugs = [o for o in published if o.group != CONTROL]

    def caught(check_name: str) -> str:
        words = [o.others[check_name] for o in bugs if check_name in o.others]
        return f"{words.count('caught')} of {len(words) - words.count('not applicable')}"

    readme = " ".join(Path("README.md").read_text(encoding="utf-8").split())
    assert f"Of {len(bugs)} bugs planted in the three backends the harness catches {len(bugs)}" in readme
    assert f"{caught('torch gradcheck')}, and `assert_close` with its defaults" in readme
    assert f"{caught('torch assert_close')} (" in readme
