"""How the C kernels become the extension module refrope.kernels._native (cffi API mode, abi3). Used by setup.py."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from cffi import FFI

CSRC = Path(__file__).parent
# Paths relative to setup.py, as setuptools wants them.
ELEMENTWISE = ["csrc/rotary.c", "csrc/elementwise.c"]
REDUCTIONS = ["csrc/attention.c", "csrc/rmsnorm.c", "csrc/loss.c", "csrc/swiglu.c", "csrc/row_product.c"]
REDUCTIONS += ["csrc/decode.c"]
HEADERS = sorted(f"csrc/{path.name}" for path in CSRC.glob("*.h"))
EXTRA_FLAGS = shlex.split(os.environ.get("REFROPE_CFLAGS", ""))


def flag_groups(compiler_type):
    """Sources with their compiler flags. Nothing may be fused in element-wise kernels: they equal NumPy's bits."""
    if compiler_type == "msvc":
        return [(ELEMENTWISE, ["/O2", "/fp:strict"]), (REDUCTIONS, ["/O2"])]
    # Nobody reads the floating-point exception flags: without them a choice of two results needs no branch. Python's
    # own -g would treble the module; REFROPE_CFLAGS=-g comes later and brings it back.
    common = ["-std=c99", "-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", *EXTRA_FLAGS]
    return [
        # gcc 12's basic-block vectoriser fuses a*c - b*s, a*s + b*c into vfmaddsub even with contraction off.
        (ELEMENTWISE, [*common, "-ffp-contract=off", "-fno-tree-slp-vectorize"]),
        (REDUCTIONS, [*common, "-ffp-contract=fast"]),
    ]


_PROBE = r"""
#include "rr_config.h"
RR_CLONES int rr_probe(const float *x, int n)
{
    float s = 0.0f;
    for (int i = 0; i < n; i++) s += x[i];
    return s == 3.0f ? 0 : 1;
}
int main(void)
{
    const float x[2] = {1.0f, 2.0f};
    return RR_SIMD_IN_USE[0] == 'x' ? rr_probe(x, 2) : 1;
}
"""


def can_multiversion(compiler, build_dir):
    """True after a program with target_clones was compiled, linked and run here; False on any failure."""
    if os.environ.get("REFROPE_SIMD") == "off" or sys.platform == "win32" or "-fsanitize" in " ".join(EXTRA_FLAGS):
        return False
    build_dir.mkdir(parents=True, exist_ok=True)
    source = build_dir / "rr_probe.c"
    source.write_text(_PROBE)
    try:
        objects = compiler.compile(
            [str(source)], output_dir=str(build_dir), macros=[("RR_MULTIVERSION", "1")], include_dirs=["csrc"]
        )
        compiler.link_executable(objects, "rr_probe", output_dir=str(build_dir))
        return subprocess.run([str(build_dir / "rr_probe")], timeout=60).returncode == 0
    except Exception:  # whatever went wrong, plain C is complete
        return False


def _declarations():
    """refrope.h without its preprocessor lines: the single source of the C prototypes."""
    return "\n".join(line for line in (CSRC / "refrope.h").read_text().splitlines() if not line.startswith("#"))


ffibuilder = FFI()
ffibuilder.cdef(_declarations())
ffibuilder.set_source(
    "refrope.kernels._native",
    '#include "refrope.h"',
    include_dirs=["csrc"],
    extra_link_args=EXTRA_FLAGS,
)
