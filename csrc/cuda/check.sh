#!/usr/bin/env bash
# Compile the CUDA kernels for every supported GPU (needs nvcc, no GPU and no torch), and hold what they cost on paper
# against budget.txt. What has not changed is not compiled again. Objects go to build/cuda.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p build/cuda
changed() { # whether any source is newer than a file
    [ ! -f "$1" ] || [ -n "$(find csrc/cuda csrc/common -newer "$1" \( -name '*.cu' -o -name '*.cuh' -o -name '*.h' \))" ]
}
flags=(-std=c++17 -O3 -Werror all-warnings -Xptxas -v)
for source in csrc/cuda/*.cu; do
    name=$(basename "$source" .cu)
    for arch in 80 90 100; do
        object=build/cuda/${name}_sm$arch.o
        if changed "$object"; then
            nvcc "${flags[@]}" -gencode "arch=compute_$arch,code=sm_$arch" -c "$source" -o "$object" \
                >"build/cuda/${name}_sm$arch.log" 2>&1 || { cat "build/cuda/${name}_sm$arch.log"; exit 1; }
            echo "cuda-check: $object compiles"
        else
            echo "cuda-check: $object is up to date"
        fi
    done
done
for name in sample select; do
    if changed build/cuda/$name.ptx; then
        nvcc -std=c++17 -O3 -arch=compute_90 -ptx csrc/cuda/$name.cu -o build/cuda/$name.ptx
    fi
done
python3 csrc/cuda/cost.py csrc/cuda/budget.txt build/cuda sample select
