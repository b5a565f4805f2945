// torch.ops.prism on CUDA tensors: checks, contiguous copies where needed, and the current stream. No call waits for
// the device, so all of it can be captured in a CUDA graph; ids out of range are therefore not looked for here. Not yet
// run on a GPU.

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "../cpu/ops.h"
#include "kernels.h"

namespace prism {
namespace {

constexpr int64_t kSelectThreads = 256, kSampleThreads = 256;

int64_t dtype_of(const at::Tensor& t) {
    switch (t.scalar_type()) {
        case at::kFloat:
            return kPrismFloat;
        case at::kDouble:
            return kPrismDouble;
        case at::kBFloat16:
            return kPrismBFloat16;
        case at::kHalf:
            return kPrismHalf;
        default:
            TORCH_CHECK_TYPE(false, "prism: scores and logits must be f32, f64, bf16 or f16, not ", t.scalar_type());
    }
}

void* stream_of(const at::Tensor& t) {
    return c10::cuda::getCurrentCUDAStream(t.get_device()).stream();
}

void check(int error) {
    TORCH_CHECK(error == 0, "prism: the CUDA launch failed with error ", error, ".");
}

at::Tensor ids(const at::Tensor& t, const at::Tensor& like, const char* name) {
    TORCH_CHECK_TYPE(t.scalar_type() == at::kLong, "prism: ", name, " must be int64, not ", t.scalar_type(), ".");
    TORCH_CHECK_VALUE(t.sizes() == like.sizes() && t.device() == like.device(), "prism: ", name, " must be ",
                      like.sizes(), " on ", like.device(), ", not ", t.sizes(), " on ", t.device(), ".");
    return t.contiguous();
}

at::Tensor select(const at::Tensor& scores, const at::Tensor& eligible, const at::Tensor& counts, bool highest,
                  at::Tensor* tokens, const at::Tensor* fill, int64_t mask_id) {
    TORCH_CHECK_VALUE(scores.dim() == 2 && eligible.sizes() == scores.sizes() && counts.dim() == 1 &&
                          counts.size(0) == scores.size(0),
                      "prism: scores and eligible must be (B, L) and counts (B,).");
    TORCH_CHECK_TYPE(eligible.scalar_type() == at::kBool && counts.scalar_type() == at::kLong,
                     "prism: eligible must be bool and counts int64.");
    const c10::cuda::CUDAGuard guard(scores.device());
    const at::Tensor allowed = eligible.contiguous(), wanted = counts.contiguous();
    const at::Tensor fills = fill ? fill->contiguous() : at::Tensor();
    at::Tensor chosen = at::empty(scores.sizes(), scores.options().dtype(at::kBool));
    PrismSelect a = {};
    a.scores = scores.const_data_ptr();
    a.dtype = dtype_of(scores);
    a.down = scores.stride(0);
    a.across = scores.stride(1);
    a.eligible = allowed.const_data_ptr<bool>();
    a.counts = wanted.const_data_ptr<int64_t>();
    a.batch = scores.size(0);
    a.length = scores.size(1);
    a.highest = highest;
    a.chosen = chosen.mutable_data_ptr<bool>();
    if (tokens) {
        const bool narrow = tokens->scalar_type() == at::kInt;
        TORCH_CHECK_TYPE(narrow || tokens->scalar_type() == at::kLong, "prism: tokens must be int64 or int32.");
        TORCH_CHECK_VALUE(tokens->sizes() == scores.sizes(), "prism: tokens must be ", scores.sizes(), ".");
        TORCH_CHECK_VALUE(!fill || (fill->sizes() == scores.sizes() && fill->scalar_type() == tokens->scalar_type()),
                          "prism: x0 must have the shape and dtype of tokens.");
        a.tokens = tokens->mutable_data_ptr();
        a.narrow = narrow;
        a.token_down = tokens->stride(0);
        a.token_across = tokens->stride(1);
        a.fill = fill ? fills.const_data_ptr() : nullptr;
        a.mask_id = mask_id;
    }
    check(prism_cuda_select(&a, kSelectThreads, stream_of(scores)));
    return chosen;
}

at::Tensor lowest(const at::Tensor& scores, const at::Tensor& eligible, const at::Tensor& counts) {
    return select(scores, eligible, counts, false, nullptr, nullptr, 0);
}

at::Tensor highest(const at::Tensor& scores, const at::Tensor& eligible, const at::Tensor& counts) {
    return select(scores, eligible, counts, true, nullptr, nullptr, 0);
}

at::Tensor remask_(at::Tensor& tokens, const at::Tensor& scores, const at::Tensor& eligible, const at::Tensor& counts,
                   int64_t mask_id) {
    return select(scores, eligible, counts, false, &tokens, nullptr, mask_id);
}

at::Tensor fill_(at::Tensor& tokens, const at::Tensor& x0, const at::Tensor& confidence, const at::Tensor& eligible,
                 const at::Tensor& counts) {
    return select(confidence, eligible, counts, true, &tokens, &x0, 0);
}

at::Tensor uniforms(int64_t seed, const at::Tensor& request, const at::Tensor& position, const at::Tensor& step,
                    int64_t stream, int64_t draw) {
    const c10::cuda::CUDAGuard guard(request.device());
    const auto wide = at::broadcast_tensors({request, position, step});
    const at::Tensor r = ids(wide[0], wide[0], "request"), p = ids(wide[1], wide[0], "position"),
                     s = ids(wide[2], wide[0], "step");
    at::Tensor out = at::empty(r.sizes(), r.options().dtype(at::kDouble));
    check(prism_cuda_uniform(seed, r.const_data_ptr<int64_t>(), p.const_data_ptr<int64_t>(),
                             s.const_data_ptr<int64_t>(), stream, draw, out.numel(), out.mutable_data_ptr<double>(),
                             stream_of(r)));
    return out;
}

Figures sample(const at::Tensor& logits, const at::Tensor& rows, const at::Tensor& request, const at::Tensor& position,
               const at::Tensor& step, int64_t seed, double temperature, double top_p, int64_t top_k, double min_p,
               const std::optional<at::Tensor>& suppress, const std::optional<at::Tensor>& bias_ids,
               const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& seen,
               const std::optional<at::Tensor>& seen_of, double penalty, bool untempered, bool inclusive,
               const std::optional<at::Tensor>& given, bool margin, bool entropy, int64_t stream) {
    TORCH_CHECK_VALUE(logits.dim() == 2, "prism: logits must be (M, V), not ", logits.sizes(), ".");
    const c10::cuda::CUDAGuard guard(logits.device());
    const at::Tensor x = logits.size(1) > 1 && logits.stride(1) != 1 ? logits.contiguous() : logits;
    const at::Tensor wanted = ids(rows, rows, "rows"), who = ids(request, rows, "request"),
                     where = ids(position, rows, "position"), when = ids(step, rows, "step"),
                     asked = given ? ids(*given, rows, "given") : at::Tensor(),
                     hidden = suppress ? ids(*suppress, *suppress, "suppress") : at::Tensor(),
                     moved = bias_ids ? ids(*bias_ids, *bias_ids, "logit_bias") : at::Tensor(),
                     added = bias_ids ? bias.value_or(at::Tensor()).contiguous() : at::Tensor(),
                     told = seen ? ids(*seen, *seen, "seen") : at::Tensor(),
                     look = seen ? ids(seen_of.value_or(at::Tensor()), rows, "seen_of") : at::Tensor();
    TORCH_CHECK_TYPE(!bias_ids || (added.scalar_type() == at::kFloat && added.numel() == moved.numel()),
                     "prism: logit_bias must be ids (S,) int64 and f32 (S,).");
    const at::Tensor scratch =
        at::empty({prism_cuda_sample_scratch(rows.numel(), x.size(1))}, x.options().dtype(at::kByte));
    at::Tensor token = at::empty_like(wanted);
    const auto figure = [&](bool asked_for) {
        return at::empty({asked_for ? rows.numel() : 0}, logits.options().dtype(at::kFloat));
    };
    at::Tensor prob = figure(true), margins = figure(margin), entropies = figure(entropy),
               given_prob = figure(given.has_value());
    PrismSample a = {};
    a.logits = x.const_data_ptr();
    a.dtype = dtype_of(x);
    a.stride = x.stride(0);
    a.vocabulary = x.size(1);
    a.count = rows.numel();
    a.rows = wanted.const_data_ptr<int64_t>();
    a.request = who.const_data_ptr<int64_t>();
    a.position = where.const_data_ptr<int64_t>();
    a.step = when.const_data_ptr<int64_t>();
    a.given = given ? asked.const_data_ptr<int64_t>() : nullptr;
    a.suppress = suppress ? hidden.const_data_ptr<int64_t>() : nullptr;
    a.suppressed = suppress ? hidden.numel() : 0;
    a.bias_ids = bias_ids ? moved.const_data_ptr<int64_t>() : nullptr;
    a.bias = bias_ids ? added.const_data_ptr<float>() : nullptr;
    a.biased = bias_ids ? moved.numel() : 0;
    a.seen = seen ? told.const_data_ptr<int64_t>() : nullptr;
    a.seen_of = seen ? look.const_data_ptr<int64_t>() : nullptr;
    a.seen_width = seen ? told.size(1) : 0;
    a.penalty = penalty;
    a.min_p = min_p;
    a.scratch = scratch.mutable_data_ptr();
    a.seed = seed;
    a.stream = stream;
    a.top_k = top_k;
    a.untempered = untempered;
    a.inclusive = inclusive;
    a.temperature = temperature;
    a.top_p = top_p;
    a.token = token.mutable_data_ptr<int64_t>();
    a.prob = prob.mutable_data_ptr<float>();
    a.margin = margin ? margins.mutable_data_ptr<float>() : nullptr;
    a.entropy = entropy ? entropies.mutable_data_ptr<float>() : nullptr;
    a.given_prob = given ? given_prob.mutable_data_ptr<float>() : nullptr;
    check(prism_cuda_sample(&a, kSampleThreads, stream_of(x)));
    return {token, prob, margins, entropies, given_prob};
}

}  // namespace
}  // namespace prism

TORCH_LIBRARY_IMPL(prism, CUDA, m) {
    m.impl("philox_uniform", prism::uniforms);
    m.impl("select_lowest", prism::lowest);
    m.impl("select_highest", prism::highest);
    m.impl("remask_scatter_", prism::remask_);
    m.impl("fill_scatter_", prism::fill_);
    m.impl("sample_rows", prism::sample);
}
