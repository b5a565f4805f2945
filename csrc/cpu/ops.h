// The ops of torch.ops.prism; prism_plugin/ops documents shapes, dtypes and meaning.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <tuple>

#include "kernels.h"

namespace prism {

template <typename scalar_t>
constexpr Dtype dtype_of() {
    if constexpr (std::is_same_v<scalar_t, at::BFloat16>) return Dtype::kBFloat16;
    if constexpr (std::is_same_v<scalar_t, at::Half>) return Dtype::kHalf;
    return Dtype::kFloat;
}

using Figures = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

at::Tensor philox_uniform(int64_t seed, const at::Tensor& request, const at::Tensor& position, const at::Tensor& step,
                          int64_t stream, int64_t draw);

at::Tensor select_lowest(const at::Tensor& scores, const at::Tensor& eligible, const at::Tensor& counts);
at::Tensor select_highest(const at::Tensor& scores, const at::Tensor& eligible, const at::Tensor& counts);
at::Tensor remask_scatter_(at::Tensor& tokens, const at::Tensor& scores, const at::Tensor& eligible,
                           const at::Tensor& counts, int64_t mask_id);
at::Tensor fill_scatter_(at::Tensor& tokens, const at::Tensor& x0, const at::Tensor& confidence,
                         const at::Tensor& eligible, const at::Tensor& counts);

using Filled = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Filled fill_rows(const at::Tensor& tokens, const at::Tensor& written, const at::Tensor& index, const at::Tensor& token,
                 const at::Tensor& prob, const std::optional<at::Tensor>& rank,
                 const std::optional<at::Tensor>& counts);

using List = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

List list_rows(const at::Tensor& where, const at::Tensor& request, const at::Tensor& place, const at::Tensor& step,
               std::optional<int64_t> size);
at::Tensor spread(const at::Tensor& index, const at::Tensor& values, double fill, at::IntArrayRef shape);
std::tuple<at::Tensor, at::Tensor> live_rows(const at::Tensor& index);

at::Tensor even_split(const at::Tensor& step, const at::Tensor& size, const at::Tensor& steps);

using Stand = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Stand end_step(const at::Tensor& step, const at::Tensor& block, const at::Tensor& block_step, const at::Tensor& blocks,
               const at::Tensor& budget, const std::optional<at::Tensor>& done);

Figures sample_rows(const at::Tensor& logits, const at::Tensor& rows, const at::Tensor& request,
                    const at::Tensor& position, const at::Tensor& step, int64_t seed, double temperature, double top_p,
                    int64_t top_k, double min_p, const std::optional<at::Tensor>& suppress,
                    const std::optional<at::Tensor>& bias_ids, const std::optional<at::Tensor>& bias,
                    const std::optional<at::Tensor>& seen, const std::optional<at::Tensor>& seen_of, double penalty,
                    bool untempered, bool inclusive, const std::optional<at::Tensor>& given, bool margin, bool entropy,
                    int64_t stream);

}  // namespace prism
