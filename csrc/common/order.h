// Floating point scores as unsigned keys of the same order: NaN counts as -inf, and -0 equals 0.
#pragma once

#include <cstdint>
#include <cstring>

#include "philox.h"

namespace prism {

template <typename Key, typename Real>
PRISM_HD Key order_key(Real value, Real infinity) {
    constexpr Key sign = Key{1} << (8 * sizeof(Key) - 1);
    const Real x = value == value ? value + Real{0} : -infinity;
    Key bits;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ ((Key{0} - (bits >> (8 * sizeof(Key) - 1))) | sign);  // all bits of a negative, the sign of another
}

}  // namespace prism
