#include "kernels.h"

namespace prism::portable {
#define PRISM_LANES 4
#include "kernels_body.h"
}  // namespace prism::portable
