#include "kernels.h"

#ifdef PRISM_X86_LEVELS
#include <immintrin.h>

#pragma GCC target("avx2,fma,popcnt")
namespace prism::avx2 {
#define PRISM_LANES 8
#include "kernels_body.h"
}  // namespace prism::avx2
#endif
