#!/usr/bin/env bash
# Compile the CUDA kernels for every supported GPU (needs nvcc, no GPU and no torch); what has not changed is not
# compiled again. Objects and their stamps go to build/cuda.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p build/cuda
for arch in 80 90 100; do
    object=build/cuda/kernels_sm$arch.o
    if [ -f "$object" ] && [ -z "$(find csrc/cuda csrc/common -newer "$object" \( -name '*.cu' -o -name '*.h' \))" ]; then
        echo "cuda-check: sm_$arch is up to date"
        continue
    fi
    nvcc -std=c++17 -O3 -Werror all-warnings -gencode "arch=compute_$arch,code=sm_$arch" -c csrc/cuda/kernels.cu -o "$object"
    echo "cuda-check: sm_$arch compiles"
done
