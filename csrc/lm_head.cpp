// lm_head_sample: output embedding and sampling a block of rows at a time, so that the logits of all needed rows never
// exist together. Written with ATen alone, hence for every device that has sample_rows.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>

#include "cpu/ops.h"

namespace prism {
namespace {

constexpr int64_t kLogitBytes = int64_t{48} << 20;  // of one block on a CPU: every block reads the weight anew
constexpr int64_t kRowsOnDevice = 512;              // of one block elsewhere, for the same reason

Figures lm_head_sample(const at::Tensor& hidden, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       double scale, const at::Tensor& rows, const at::Tensor& request, const at::Tensor& position,
                       const at::Tensor& step, int64_t seed, double temperature, double top_p, int64_t top_k,
                       double min_p, const std::optional<at::Tensor>& suppress,
                       const std::optional<at::Tensor>& bias_ids, const std::optional<at::Tensor>& bias_added,
                       const std::optional<at::Tensor>& seen, const std::optional<at::Tensor>& seen_of, double penalty,
                       bool untempered, bool inclusive, const std::optional<at::Tensor>& given, bool margin,
                       bool entropy, int64_t stream) {
    static const auto sample =
        c10::Dispatcher::singleton().findSchemaOrThrow("prism::sample_rows", "").typed<decltype(sample_rows)>();
    TORCH_CHECK_VALUE(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1),
                      "prism: hidden must be (M, D) and weight (V, D), not ", hidden.sizes(), ", ", weight.sizes(),
                      ".");
    // On the CPU padding is left out; elsewhere that would wait for the device, so padding is computed and ignored.
    const at::Tensor live = rows.is_cpu() ? rows.ge(0).nonzero().flatten() : at::arange(rows.numel(), rows.options());
    const auto figure = [&](bool wanted) {
        return at::zeros({wanted ? rows.numel() : 0}, hidden.options().dtype(at::kFloat));
    };
    const Figures out = {at::full_like(rows, -1), figure(true), figure(margin), figure(entropy),
                         figure(given.has_value())};
    const int64_t row_bytes = std::max<int64_t>(1, weight.size(0) * hidden.element_size());
    const int64_t most = rows.is_cpu() ? std::max<int64_t>(1, kLogitBytes / row_bytes) : kRowsOnDevice;
    const int64_t blocks = (live.numel() + most - 1) / most;  // of even height
    const int64_t height = blocks > 0 ? (live.numel() + blocks - 1) / blocks : 1;
    at::Tensor buffer = at::empty({height, weight.size(0)}, hidden.options());  // one for all blocks
    for (const at::Tensor& block : live.split(height)) {
        if (block.numel() == 0 || hidden.size(0) == 0) break;
        const auto part = [&](const at::Tensor& t) { return t.index_select(0, block); };
        const auto parted = [&](const std::optional<at::Tensor>& t) {
            return t ? std::optional(part(*t)) : std::nullopt;
        };
        const at::Tensor wanted = part(rows);
        const at::Tensor x = hidden.index_select(0, wanted.clamp_min(0));
        at::Tensor logits = buffer.narrow(0, 0, block.numel());
        bias ? at::addmm_out(logits, *bias, x, weight.t()) : at::mm_out(logits, x, weight.t());
        if (scale != 1) logits.mul_(scale);
        const at::Tensor index = at::where(wanted.ge(0), at::arange(block.numel(), rows.options()), -1);
        const auto [token, prob, margins, entropies, given_prob] =
            sample.call(logits, index, part(request), part(position), part(step), seed, temperature, top_p, top_k,
                        min_p, suppress, bias_ids, bias_added, seen, parted(seen_of), penalty, untempered, inclusive,
                        parted(given), margin, entropy, stream);
        std::get<0>(out).index_copy_(0, block, token);
        std::get<1>(out).index_copy_(0, block, prob);
        if (margin) std::get<2>(out).index_copy_(0, block, margins);
        if (entropy) std::get<3>(out).index_copy_(0, block, entropies);
        if (given) std::get<4>(out).index_copy_(0, block, given_prob);
    }
    return out;
}

}  // namespace
}  // namespace prism

TORCH_LIBRARY_FRAGMENT(prism, m) {
    m.def(
        "lm_head_sample(Tensor hidden, Tensor weight, Tensor? bias, float scale, Tensor rows, Tensor request, "
        "Tensor position, Tensor step, int seed, float temperature, float top_p, int top_k, float min_p, "
        "Tensor? suppress, Tensor? bias_ids, Tensor? bias_added, Tensor? seen, Tensor? seen_of, float penalty, "
        "bool untempered, bool inclusive, Tensor? given, bool margin, bool entropy, int stream) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(prism, CompositeExplicitAutograd, m) {
    m.impl("lm_head_sample", prism::lm_head_sample);
}
