#!/usr/bin/env bash
# Build the ops with AddressSanitizer and UndefinedBehaviorSanitizer, apart from the usual build, and run their tests
# with them, once for each instruction set. PYTHON names the interpreter (python); about five minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=build/sanitize
mkdir -p "$out/prism_plugin"
includes=$("$python" - <<'PY'
import sysconfig
from torch.utils import cpp_extension
print(*(f"-I{path}" for path in [*cpp_extension.include_paths(), sysconfig.get_paths()["include"]]))
PY
)
libraries=$("$python" -c "import torch; print(torch.__path__[0] + '/lib')")
suffix=$("$python" -c "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))")
flags="-std=c++20 -O1 -g1 -fPIC -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr
    -fno-sanitize-recover=undefined"
objects=()
for source in csrc/*.cpp csrc/cpu/*.cpp; do
    object="$out/$(basename "$source" .cpp).o"
    objects+=("$object")
    if [ -f "$object" ] && [ -z "$(find csrc -newer "$object" -name '*.h')" ] && [ "$object" -nt "$source" ]; then
        continue
    fi
    # shellcheck disable=SC2086
    g++ $flags $includes -DTORCH_EXTENSION_NAME=_C -c "$source" -o "$object"
done
# shellcheck disable=SC2086
g++ $flags -shared "${objects[@]}" -L"$libraries" -ltorch_python -ltorch -ltorch_cpu -lc10 -o "$out/prism_plugin/_C$suffix"
for part in prism_plugin/*; do
    case $part in
        *.so | *__pycache__) ;;
        *) ln -sfn "$PWD/$part" "$out/$part" ;;
    esac
done
ln -sfn "$PWD/tests" "$out/tests"
ln -sfn "$PWD/csrc" "$out/csrc"
ln -sfn "$PWD/pyproject.toml" "$out/pyproject.toml"
cd "$out"
export ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1
runtimes="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)"
for set in portable avx2 avx512; do  # a set that this machine lacks runs as portable
    PRISM_ISA=$set LD_PRELOAD=$runtimes "$python" -m pytest -q -p no:cacheprovider \
        tests/ops/test_select.py tests/ops/test_sample.py tests/ops/test_philox.py "$@"
done
