"""Tables as text: aligned, plain, and no number cut or wrapped."""

import pytest

from triptych.show import tables

HEADER = ("variant", "ms", "share", "least, most", "ratio", "what it is")
ROWS = (
    ("jax", "1.25", "50%", "1.20, 1.30", "1.00x", "many steps in [bold]one[/bold] :smile: call"),
    ("torch-usual", "112,345.5", "", "9, 10", "0.5x", "eager"),
)
TABLE = """\
variant             ms  share  least, most  ratio  what it is
jax               1.25    50%   1.20, 1.30  1.00x  many steps in [bold]one[/bold] :smile: call
torch-usual  112,345.5               9, 10   0.5x  eager"""


def test_in_a_pipe_each_row_is_one_line_of_plain_text():
    assert tables.text(HEADER, ROWS) == TABLE
    assert tables.text(HEADER, []).split() == " ".join(HEADER).split()
    long = ("x" * 5000, "1")
    assert tables.text(("a", "b"), [long]).splitlines()[1] == "  ".join(long)


LEAST = len("torch-usual  112,345.5  share  least, most  ratio  [bold]one[/bold]")
"""Of TABLE's width."""


@pytest.mark.parametrize("width", [LEAST, 80])
def test_at_a_terminal_words_wrap_and_numbers_do_not(width):
    lines = tables.text(HEADER, ROWS, width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) > 3
    assert any(line.startswith("torch-usual  112,345.5               9, 10   0.5x  eager") for line in lines)
    assert " ".join(
        line[len("torch-usual  112,345.5  share  least, most  ratio  ") :] for line in lines
    ).split() == (" ".join((HEADER[-1], ROWS[0][-1], ROWS[1][-1])).split())


@pytest.mark.parametrize("width", [20, 40, LEAST - 1])
def test_at_a_terminal_too_narrow_for_it_a_row_is_a_sentence(width):
    lines = tables.text(HEADER, ROWS, width).splitlines()
    assert max(map(len, lines)) <= width
    sentence = "torch-usual: ms 112,345.5, least, most 9, 10, ratio 0.5x, what it is eager"
    assert " ".join(" ".join(lines).split()).endswith(sentence)
    assert not any(line.strip() in ("", "jax") for line in lines)


def test_markdown():
    lines = tables.markdown(("a", "b"), [("1", "x")]).splitlines()
    assert lines == ["| a | b |", "| --- | --- |", "| 1 | x |"]


def test_a_row_of_another_length_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        tables.text(("a", "b"), [("1",)])
