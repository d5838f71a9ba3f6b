"""What a person sees while a model reads."""

import sys

from refrope.lm import progress


def test_without_a_terminal_there_are_lines_with_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with progress.show_progress("reading", 1000) as shown:
        assert isinstance(shown, progress.Lines)
        for seconds, more in ((5, 100), (11, 100), (12, 100), (1100, 500), (1200, 200)):
            now[0] = seconds
            shown.advance(more)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 200 of 1,000 tokens, 44 s left",
        "reading: 800 of 1,000 tokens, 5 min left",
    ]


def test_a_terminal_has_a_bar_where_tqdm_is_installed(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(progress.show_progress("reading", 10), progress.Bar)
    with progress.show_progress("reading", 10) as shown:
        shown.advance(7)
    assert shown.done == shown.bar.n == 7
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert isinstance(progress.show_progress("reading", 10), progress.Lines)
