// Philox4x32-10 (Salmon et al., SC 2011): the generator of prism_plugin/ops/philox.py, bit for bit.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define PRISM_HD __host__ __device__ inline
#else
#define PRISM_HD inline
#endif

namespace prism {

struct Words {
    uint32_t w0, w1, w2, w3;
};

PRISM_HD Words philox4x32(Words c, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t{0xD2511F53u} * c.w0;
        const uint64_t p1 = uint64_t{0xCD9E8D57u} * c.w2;
        c = {uint32_t(p1 >> 32) ^ c.w1 ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c.w3 ^ k1, uint32_t(p0)};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// A 53-bit uniform number in (0, 1). Wider arguments count by their low 32 bits.
PRISM_HD double uniform(int64_t seed, int64_t request, int64_t position, int64_t step, int64_t stream, int64_t draw) {
    const Words c = {uint32_t(position), uint32_t(step), uint32_t(request), uint32_t(stream * (1 << 24) + draw)};
    const Words w = philox4x32(c, uint32_t(seed), uint32_t(uint64_t(seed) >> 32));
    const double u = (double(w.w0 >> 5) * 67108864.0 + double(w.w1 >> 6) + 0.5) * 0x1p-53;
    return u < 1.0 ? u : 1.0 - 0x1p-53;
}

}  // namespace prism
