#include <ATen/Parallel.h>

#include "../common/philox.h"
#include "ops.h"

namespace prism {

at::Tensor philox_uniform(int64_t seed, const at::Tensor& request, const at::Tensor& position, const at::Tensor& step,
                          int64_t stream, int64_t draw) {
    for (const at::Tensor* ids : {&request, &position, &step}) {
        TORCH_CHECK_TYPE(ids->scalar_type() == at::kLong, "prism: request, position and step must be int64, not ",
                         ids->scalar_type(), ".");
    }
    const auto wide = at::broadcast_tensors({request, position, step});
    const at::Tensor r = wide[0].contiguous(), p = wide[1].contiguous(), s = wide[2].contiguous();
    at::Tensor out = at::empty(r.sizes(), r.options().dtype(at::kDouble));
    const int64_t *pr = r.const_data_ptr<int64_t>(), *pp = p.const_data_ptr<int64_t>(),
                  *ps = s.const_data_ptr<int64_t>();
    double* u = out.mutable_data_ptr<double>();
    at::parallel_for(0, out.numel(), 4096, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) u[i] = uniform(seed, pr[i], pp[i], ps[i], stream, draw);
    });
    return out;
}

}  // namespace prism
