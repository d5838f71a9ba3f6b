"""Hold somebody else's rotary code against refrope, and name the mistake where there is one."""

from refrope.conformance.checking import check
from refrope.conformance.diagnosing import Mistake
from refrope.conformance.factories import check_vectors
from refrope.conformance.report import Report

__all__ = ["Mistake", "Report", "check", "check_vectors"]
