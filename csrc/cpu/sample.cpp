// sample_rows: which rows to look at, and the loop over them.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "../common/philox.h"
#include "ops.h"
#include "row.h"

namespace prism {
namespace {

std::vector<int64_t> suppressed(const std::optional<at::Tensor>& suppress, int64_t vocabulary) {
    if (!suppress) return {};
    TORCH_CHECK_TYPE(suppress->scalar_type() == at::kLong, "prism: suppress must hold int64 ids.");
    const at::Tensor flat = suppress->contiguous();
    const int64_t* data = flat.const_data_ptr<int64_t>();
    std::vector<int64_t> ids(data, data + flat.numel());
    for (int64_t id : ids) {
        TORCH_CHECK_INDEX(id >= 0 && id < vocabulary, "prism: suppressed id ", id, " is outside a vocabulary of ",
                          vocabulary, ".");
    }
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
}

}  // namespace

Figures sample_rows(const at::Tensor& logits, const at::Tensor& rows, const at::Tensor& request,
                    const at::Tensor& position, const at::Tensor& step, int64_t seed, double temperature, double top_p,
                    int64_t top_k, const std::optional<at::Tensor>& suppress, bool untempered, bool inclusive,
                    const std::optional<at::Tensor>& given, bool margin, bool entropy, int64_t stream) {
    TORCH_CHECK_VALUE(logits.dim() == 2, "prism: logits must be (M, V), not ", logits.sizes(), ".");
    const int64_t count = rows.numel(), vocabulary = logits.size(1);
    const auto ids = [&](const at::Tensor& t, const char* name) {
        TORCH_CHECK_TYPE(t.scalar_type() == at::kLong && t.dim() == 1 && t.numel() == count, "prism: ", name,
                         " must be int64 (", count, ",), not ", t.scalar_type(), " ", t.sizes(), ".");
        return t.contiguous();
    };
    const at::Tensor wanted = ids(rows, "rows"), who = ids(request, "request"), where = ids(position, "position"),
                     when = ids(step, "step"), asked = given ? ids(*given, "given") : at::Tensor();
    const int64_t *row_of = wanted.const_data_ptr<int64_t>(), *requests = who.const_data_ptr<int64_t>(),
                  *positions = where.const_data_ptr<int64_t>(), *steps = when.const_data_ptr<int64_t>(),
                  *givens = given ? asked.const_data_ptr<int64_t>() : nullptr;
    const Settings settings = {vocabulary, temperature, top_p,  top_k,   suppressed(suppress, vocabulary),
                               untempered, inclusive,   margin, entropy, given.has_value()};

    at::Tensor token = at::full({count}, -1, rows.options());
    const auto figure = [&](bool asked_for) {
        return at::zeros({asked_for ? count : 0}, logits.options().dtype(at::kFloat));
    };
    at::Tensor prob = figure(true), margins = figure(margin), entropies = figure(entropy),
               given_prob = figure(settings.given);
    int64_t* tokens = token.mutable_data_ptr<int64_t>();
    float *probs = prob.mutable_data_ptr<float>(), *margin_of = margins.mutable_data_ptr<float>(),
          *entropy_of = entropies.mutable_data_ptr<float>(), *given_of = given_prob.mutable_data_ptr<float>();

    std::vector<int64_t> live;  // padding would leave some threads without work
    for (int64_t n = 0; n < count; ++n) {
        TORCH_CHECK_INDEX(row_of[n] >= -1 && row_of[n] < logits.size(0), "prism: row ", row_of[n],
                          " is outside logits of ", logits.size(0), " rows (-1 is padding).");
        if (row_of[n] >= 0) live.push_back(n);
    }
    const at::Tensor x = vocabulary > 1 && logits.stride(1) != 1 ? logits.contiguous() : logits;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "prism_sample_rows", [&] {
        const scalar_t* data = x.const_data_ptr<scalar_t>();
        constexpr bool chunked = !std::is_same_v<scalar_t, double>;
        at::parallel_for(0, live.size(), 1 + 16384 / (vocabulary + 1), [&](int64_t begin, int64_t end) {
            ExactRow exact(settings);
            std::optional<ChunkedRow> fast;
            if (chunked) fast.emplace(settings, dtype_of<scalar_t>());
            for (int64_t i = begin; i < end; ++i) {
                const int64_t n = live[i];
                const scalar_t* row = data + row_of[n] * x.stride(0);
                const double u = uniform(seed, requests[n], positions[n], steps[n], stream, 0);
                const int64_t asked_id = givens ? givens[n] : -1;
                Drawn drawn;
                if (!fast || !fast->run(row, u, asked_id, &drawn)) {
                    drawn = exact.run([&](int64_t id) { return static_cast<double>(row[id]); }, u, asked_id);
                }
                tokens[n] = drawn.token;
                probs[n] = static_cast<float>(drawn.prob);
                if (margin) margin_of[n] = static_cast<float>(drawn.margin);
                if (entropy) entropy_of[n] = static_cast<float>(drawn.entropy);
                if (givens) given_of[n] = static_cast<float>(drawn.given);
            }
        });
    });
    return {token, prob, margins, entropies, given_prob};
}

}  // namespace prism
