#include <ATen/TensorIterator.h>
#include <ATen/native/cpu/Loops.h>

#include "../common/philox.h"
#include "ops.h"

namespace prism {

at::Tensor philox_uniform(int64_t seed, const at::Tensor& request, const at::Tensor& position, const at::Tensor& step,
                          int64_t stream, int64_t draw) {
    for (const at::Tensor* ids : {&request, &position, &step}) {
        TORCH_CHECK_TYPE(ids->scalar_type() == at::kLong, "prism: request, position and step must be int64, not ",
                         ids->scalar_type(), ".");
    }
    auto loop = at::TensorIteratorConfig()
                    .check_all_same_dtype(false)
                    .add_owned_output(at::Tensor())
                    .add_const_input(request)
                    .add_const_input(position)
                    .add_const_input(step)
                    .declare_static_dtype_and_device(at::kDouble, at::kCPU)
                    .build();
    at::native::cpu_kernel(
        loop, [=](int64_t r, int64_t p, int64_t s) -> double { return uniform(seed, r, p, s, stream, draw); });
    return loop.output();
}

}  // namespace prism
