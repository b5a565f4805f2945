#include "kernels.h"

#ifdef PRISM_X86_LEVELS
#include <immintrin.h>

#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 sees them inside its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,popcnt")
namespace prism::avx512 {
#define PRISM_LANES 16
#include "kernels_body.h"
}  // namespace prism::avx512
#endif
