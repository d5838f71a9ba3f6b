"""A pytest plugin: rotary code checked in other people's test suites.

It is switched on where it is wanted, by one line in pytest's configuration, and costs no other test run anything::

    [pytest]
    addopts = -p refrope.conformance.pytest_plugin
    refrope_check =
        mypackage.rope:apply --encoding rope:head_dim=128,base=500000 --axes BHTD
        mypackage.rope:tables --encoding yarn:head_dim=128,factor=16,original_length=4096

Each line of ``refrope_check`` holds the arguments of ``refrope check`` and is a test of its own. For code inside a test
there is a fixture::

    def test_rope(check_rope):
        check_rope(my_rotate, "rope:head_dim=128,base=500000", layout="interleaved")
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from refrope.conformance.checking import check
from refrope.conformance.command import add_arguments, outcomes


def pytest_addoption(parser: pytest.Parser) -> None:
    """The configuration's ``refrope_check``."""
    about = "rotary functions to check, a line each, with the arguments of 'refrope check'"
    parser.addini("refrope_check", about, type="linelist", default=[])


@pytest.fixture
def check_rope() -> Callable[..., Any]:
    """`refrope.conformance.check` that fails the test, with its report, unless the function passes."""

    def checked(*arguments: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        report = check(*arguments, **options)
        if not report.passed:
            pytest.fail(str(report), pytrace=False)
        return report

    return checked


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """One more item for each configured line, unless the command line names files or tests."""
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return
    for line in config.getini("refrope_check"):
        items.append(CheckItem.from_parent(session, name=f"refrope check {line}", line=line))


class CheckItem(pytest.Item):
    """One configured line."""

    def __init__(self, *, line: str, **options: Any) -> None:
        super().__init__(**options)
        self.line = line

    def runtest(self) -> None:
        """Check the line's targets, each in a process of its own."""
        parser = _Parser(prog="refrope_check", add_help=False)
        add_arguments(parser)
        failed = [one.text for one in outcomes(parser.parse_args(shlex.split(self.line))) if not one.passed]
        if failed:
            raise CheckFailed("\n".join(failed))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: Any) -> str:
        """The report, without a traceback of refrope's."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Any, None, str]:
        """Where pytest says that the test is."""
        return self.path, None, self.name


class CheckFailed(Exception):
    """A configured check found something wrong; its text is the report."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Bad arguments are the test's failure, not the end of pytest."""
        raise ValueError(f"refrope_check: {message}")
