// What the kernels share: launches, limits of the dtypes, sums over a warp and over a block whose result every thread
// has and which does not depend on scheduling.
#pragma once

#include "../common/convert.h"
#include "../common/order.h"
#include "../common/philox.h"
#include "kernels.h"

#ifdef PRISM_SIMT
#include "simt.h"
#else
#include <cuda_runtime.h>
#define PRISM_LAUNCH(kernel, blocks, threads, stream, ...) \
    kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, stream>>>(__VA_ARGS__)
#endif

namespace prism {
namespace {

constexpr int kMaxThreads = 1024, kInvalid = 1;  // cudaErrorInvalidValue
constexpr unsigned kWarp = 32, kAllLanes = 0xFFFFFFFFu;

template <typename T>
struct Limits;
template <>
struct Limits<float> {
    using Key = uint32_t;
    static constexpr float largest = 3.4028234663852886e38f, infinity = __builtin_huge_valf();
};
template <>
struct Limits<double> {
    using Key = uint64_t;
    static constexpr double largest = 1.7976931348623157e308, infinity = __builtin_huge_val();
};

template <typename T>
__device__ T larger(T a, T b) {
    return a > b ? a : b;
}
template <typename T>
__device__ T smaller(T a, T b) {
    return a < b ? a : b;
}
template <typename T>
__device__ T added(T a, T b) {
    return a + b;
}

template <typename T, typename Join>
__device__ T warp_reduce(T value, Join join) {
    for (unsigned offset = kWarp / 2; offset > 0; offset /= 2) {
        value = join(value, __shfl_xor_sync(kAllLanes, value, offset));
    }
    return value;
}

template <typename T, typename Join>
__device__ T block_reduce(T value, Join join) {
    __shared__ T partial[kMaxThreads / kWarp];
    value = warp_reduce(value, join);
    if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
    __syncthreads();
    T result = partial[0];
    for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) result = join(result, partial[warp]);
    __syncthreads();
    return result;
}

template <typename T, typename Term>
__device__ T row_sum(int64_t n, Term term) {
    T sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += term(i);
    return block_reduce(sum, added<T>);
}

template <typename T, typename Term>
__device__ T row_max(int64_t n, T least, Term term) {
    T most = least;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) most = larger(most, term(i));
    return block_reduce(most, larger<T>);
}

inline bool whole_warps(int64_t threads) {
    return threads >= kWarp && threads <= kMaxThreads && threads % kWarp == 0;
}

}  // namespace
}  // namespace prism
