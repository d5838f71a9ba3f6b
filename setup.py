"""Build refrope's C kernels through cffi's API mode; everything else is declared in pyproject.toml.

A missing or broken compiler does not fail the install: refrope then runs as pure NumPy and says so at the start of
every command. Set REFROPE_REQUIRE_EXT=1 to make it fail instead.

Other switches, for developers:
    REFROPE_CFLAGS     extra compiler and linker flags, e.g. "-fsanitize=address,undefined" or "-Werror"
    REFROPE_SIMD=off   plain C only: no function multiversioning, whatever the probe would say
"""

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent / "csrc"))
import build_kernels


class BuildKernels(build_ext):
    """Compile each C file with the floating-point rules of its group, after probing for multiversioning."""

    def build_extensions(self):
        required = os.environ.get("REFROPE_REQUIRE_EXT", "") not in ("", "0")
        for ext in self.extensions:
            ext.optional = not required
        try:
            super().build_extensions()
        except Exception as error:
            if not required:
                raise
            raise SystemExit(
                "refrope: the C kernels could not be built and REFROPE_REQUIRE_EXT is set. "
                f"Install a C compiler (gcc or clang) and Python's headers, or unset it for pure NumPy. Cause: {error}"
            ) from error

    def build_extension(self, ext):
        # Without these, setuptools would not link again after a change in a kernel.
        ext.depends = [*build_kernels.ELEMENTWISE, *build_kernels.REDUCTIONS, *build_kernels.HEADERS]
        macros = list(ext.define_macros)
        if build_kernels.can_multiversion(self.compiler, Path(self.build_temp)):
            macros.append(("RR_MULTIVERSION", "1"))
        flags_text = " ".join(build_kernels.flag_groups(self.compiler.compiler_type)[0][1])
        macros.append(("RR_FLAGS", f'"{flags_text}"'))
        for sources, flags in build_kernels.flag_groups(self.compiler.compiler_type):
            ext.extra_objects += self.compiler.compile(
                sources,
                output_dir=self.build_temp,
                macros=macros,
                include_dirs=["csrc"],
                extra_postargs=flags,
                depends=build_kernels.HEADERS,
            )
        ext.define_macros = macros
        super().build_extension(ext)


# One wheel for every CPython from 3.10 on; free-threaded builds have no stable ABI yet and get their own.
options = {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"bdist_wheel": {"py_limited_api": "cp310"}}
setup(cffi_modules=["csrc/build_kernels.py:ffibuilder"], cmdclass={"build_ext": BuildKernels}, options=options)
