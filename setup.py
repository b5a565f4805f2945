"""Build the extensions: ``prism_plugin._C`` from csrc/ and the Cython modules. All else is in pyproject.toml.

Nothing here is needed to use the package: without a compiler (or without torch at build time) the install works, says
so in one line, and the PyTorch reference ops and the uncompiled Python modules run instead. Environment variables:

PRISM_REQUIRE_EXT=1   an extension that cannot be built is an error
PRISM_SKIP_EXT=1      build no extension
PRISM_CUDA=0|1        1: CUDA sources must build, or fail; 0: leave them out; unset: built where CUDA torch and nvcc are
MAX_JOBS              parallel compiler jobs (2)
TORCH_CUDA_ARCH_LIST  GPU architectures, as for every torch extension
"""

import logging
import os
import sys
from contextlib import contextmanager
from glob import glob
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext

try:
    import torch
    from torch.utils import cpp_extension
except ImportError:
    cpp_extension = None
try:
    from Cython.Build import cythonize
except ImportError:
    cythonize = None

log = logging.getLogger("prism_plugin.setup")
CYTHON_MODULES = ["prism_plugin/tasks/_sudoku.py", "prism_plugin/sampling/_budget.py"]
REQUIRE_EXT = os.environ.get("PRISM_REQUIRE_EXT") == "1"
SKIP_EXT = os.environ.get("PRISM_SKIP_EXT") == "1"
CUDA = os.environ.get("PRISM_CUDA")
os.environ.setdefault("MAX_JOBS", "2")


def with_cuda() -> bool:
    """Whether csrc/cuda is compiled. Raises SystemExit where PRISM_CUDA=1 asks for the impossible."""
    if CUDA == "0" or not glob("csrc/cuda/*.cu"):
        return False
    missing = [
        name
        for name, found in [
            ("a torch built for CUDA", cpp_extension and torch.version.cuda),
            ("nvcc (CUDA_HOME)", cpp_extension and cpp_extension.CUDA_HOME),
        ]
        if not found
    ]
    if missing and CUDA == "1":
        sys.exit(f"prism-plugin: PRISM_CUDA=1, but {' and '.join(missing)} cannot be found")
    return not missing


def torch_extensions() -> list[Extension]:
    """``prism_plugin._C``; none without torch or without sources. The C++ standard is the one that torch asks for."""
    sources = sorted(glob("csrc/*.cpp") + glob("csrc/common/*.cpp") + glob("csrc/cpu/*.cpp"))
    if cpp_extension is None or not sources:
        return []
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    kind, flags = cpp_extension.CppExtension, {"cxx": ["-O3", "-g0", "-fvisibility=hidden", *openmp]}
    if with_cuda():
        kind, flags["nvcc"] = cpp_extension.CUDAExtension, ["-O3"]
        sources += sorted(glob("csrc/cuda/*.cu") + glob("csrc/cuda/*.cpp"))
    headers = sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.cuh", recursive=True))
    return [
        kind(
            "prism_plugin._C",
            sources,
            depends=headers,
            include_dirs=[str(Path("csrc").absolute())],
            extra_compile_args=flags,
            extra_link_args=openmp,
        )
    ]


def cython_extensions() -> list[Extension]:
    """Modules in Cython's pure-Python mode; the same file runs as it stands where no compiler is."""
    modules = [module for module in CYTHON_MODULES if Path(module).exists()]
    if cythonize is None or not modules:
        return []
    extensions = [
        Extension(
            module.removesuffix(".py").replace("/", "."), [module], language="c++", extra_compile_args=["-O3", "-g0"]
        )
        for module in modules
    ]
    return cythonize(extensions, build_dir="build/cython", quiet=True, language_level=3)


class OptionalBuild(cpp_extension.BuildExtension if cpp_extension else build_ext):
    """``build_ext`` that goes on without what it cannot build and says once what is missing and why."""

    failures: list[str]

    def run(self) -> None:
        self.failures = [] if cpp_extension else ["prism_plugin._C: no torch in the build environment"]
        if cythonize is None:
            self.failures.append("the Cython modules: no Cython in the build environment")
        with self.optional("the extensions"):
            super().run()
        if self.failures:
            message = f"prism-plugin: not compiled, pure PyTorch and Python run instead ({'; '.join(self.failures)})"
            if REQUIRE_EXT or CUDA == "1":
                sys.exit(message)
            log.warning(message)

    def build_extension(self, ext: Extension) -> None:
        with self.optional(ext.name):
            super().build_extension(ext)

    @contextmanager
    def optional(self, what: str):
        try:
            yield
        except (Exception, SystemExit) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.failures.append(f"{what}: {first_line}")


class WithData(Distribution):
    """An editable install skips ``data_files`` because setuptools asks for a method of this name, which it lacks."""

    def has_data(self) -> bool:
        return self.has_data_files()


extensions = [] if SKIP_EXT else torch_extensions() + cython_extensions()
for extension in extensions:
    extension.optional = True  # what is missing is not copied either

setup(
    distclass=WithData,
    ext_modules=extensions,
    cmdclass={"build_ext": OptionalBuild},
    # A .pth file must lie in site-packages itself, in a wheel as in an editable install, and setuptools has no setting
    # for that: "../purelib" leads from the wheel's data folder to it.
    data_files=[("../purelib", ["prism_plugin/evaluation/prism_plugin_lm_eval.pth"])],
)
