// 16-bit floats as bits, so that host, device and emulation share one conversion and need no vendor header.
#pragma once

#include <cstdint>
#include <cstring>

#include "philox.h"

namespace prism {

struct BFloat16Bits {
    uint16_t bits;
};
struct HalfBits {
    uint16_t bits;
};

PRISM_HD float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

PRISM_HD float to_real(float x) {
    return x;
}
PRISM_HD double to_real(double x) {
    return x;
}
PRISM_HD float to_real(BFloat16Bits x) {
    return float_of(uint32_t{x.bits} << 16);
}
PRISM_HD float to_real(HalfBits x) {
    const uint32_t magnitude = (x.bits & 0x7FFFu) << 13, sign = (x.bits & 0x8000u) << 16;
    if (magnitude >= 0x7C00u << 13) return float_of(sign | magnitude | 0x7F800000u);
    // no denormal on the way, so that it is right where the processor flushes them
    const float size =
        magnitude < 0x400u << 13 ? float(x.bits & 0x3FFu) * 0x1p-24f : float_of(magnitude + (112u << 23));
    return float_of(sign | 0x3F800000u) * size;
}

}  // namespace prism
