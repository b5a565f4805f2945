// sample_rows: which rows to look at, and the loop over them.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "../common/philox.h"
#include "ops.h"
#include "row.h"

namespace prism {
namespace {

// What is changed in the logits before anything is drawn: ids that are never drawn, a bias, and a penalty on ids that a
// row has seen.
class Changes {
  public:
    Changes(const std::optional<at::Tensor>& suppress, const std::optional<at::Tensor>& bias_ids,
            const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& seen, double penalty,
            int64_t vocabulary)
        : penalty_(penalty), changing_(bias_ids || seen) {
        if (bias_ids) {
            TORCH_CHECK_TYPE(bias && bias->scalar_type() == at::kFloat && bias->numel() == bias_ids->numel(),
                             "prism: logit_bias must be ids (S,) int64 and f32 (S,).");
            const std::vector<int64_t> ids = listed(*bias_ids, "logit_bias", vocabulary);
            const at::Tensor added = bias->contiguous();
            for (size_t i = 0; i < ids.size(); ++i) fixed_.push_back({ids[i], added.const_data_ptr<float>()[i]});
        }
        if (suppress) {
            for (int64_t id : listed(*suppress, "suppress", vocabulary)) fixed_.push_back({id, kNever});
        }
        // of one id's changes the least stands: a suppressed one stays so
        std::sort(fixed_.begin(), fixed_.end(),
                  [](Edit a, Edit b) { return a.id != b.id ? a.id < b.id : a.value < b.value; });
        const auto same = [](Edit a, Edit b) { return a.id == b.id; };
        fixed_.erase(std::unique(fixed_.begin(), fixed_.end(), same), fixed_.end());
        if (!seen) return;
        TORCH_CHECK_TYPE(seen->scalar_type() == at::kLong && seen->dim() == 2,
                         "prism: seen must hold int64 ids (B, K).");
        const at::Tensor table = seen->contiguous();
        for (int64_t b = 0; b < table.size(0); ++b) {
            const int64_t* begin = table.const_data_ptr<int64_t>() + b * table.size(1);
            std::vector<int64_t>& ids = seen_.emplace_back(begin, begin + table.size(1));
            std::sort(ids.begin(), ids.end());
            ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
            ids.erase(std::lower_bound(ids.begin(), ids.end(), vocabulary), ids.end());
            ids.erase(ids.begin(), std::lower_bound(ids.begin(), ids.end(), 0));
        }
    }

    // The changed logits of a row, which looks at the ids of `look` where there are any.
    template <typename scalar_t>
    void apply(const scalar_t* row, int64_t look, Edits* out) const {
        using Real = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
        if (!changing_) {
            if (out->size() != fixed_.size()) *out = fixed_;
            return;
        }
        TORCH_CHECK_INDEX(seen_.empty() || (look >= 0 && look < static_cast<int64_t>(seen_.size())), "prism: seen_of ",
                          look, " is outside seen of ", seen_.size(), " rows.");
        static const std::vector<int64_t> none;
        const std::vector<int64_t>& seen = seen_.empty() ? none : seen_[look];
        const Real r = static_cast<Real>(penalty_);
        const auto penalised = [&](Real x) { return x > 0 ? x / r : x * r; };
        out->clear();
        auto next = seen.begin();
        const auto upto = [&](int64_t end) {
            for (; next != seen.end() && *next < end; ++next) out->push_back({*next, penalised(Real(row[*next]))});
        };
        for (const Edit& edit : fixed_) {
            upto(edit.id);
            Real x = edit.value == kNever ? Real(kNever) : Real(row[edit.id]) + static_cast<Real>(edit.value);
            if (next != seen.end() && *next == edit.id) {
                x = penalised(x);
                ++next;
            }
            out->push_back({edit.id, x});
        }
        upto(std::numeric_limits<int64_t>::max());
    }

  private:
    static constexpr double kNever = -std::numeric_limits<double>::infinity();

    static std::vector<int64_t> listed(const at::Tensor& ids, const char* name, int64_t vocabulary) {
        TORCH_CHECK_TYPE(ids.scalar_type() == at::kLong, "prism: ", name, " must hold int64 ids.");
        const at::Tensor flat = ids.contiguous();
        const int64_t* data = flat.const_data_ptr<int64_t>();
        for (int64_t i = 0; i < flat.numel(); ++i) {
            TORCH_CHECK_INDEX(data[i] >= 0 && data[i] < vocabulary, "prism: id ", data[i], " of ", name,
                              " is outside a vocabulary of ", vocabulary, ".");
        }
        return {data, data + flat.numel()};
    }

    double penalty_;
    bool changing_;  // by more than what is suppressed: then every row has its own
    Edits fixed_;    // value: what is added
    std::vector<std::vector<int64_t>> seen_;
};

}  // namespace

Figures sample_rows(const at::Tensor& logits, const at::Tensor& rows, const at::Tensor& request,
                    const at::Tensor& position, const at::Tensor& step, int64_t seed, double temperature, double top_p,
                    int64_t top_k, double min_p, const std::optional<at::Tensor>& suppress,
                    const std::optional<at::Tensor>& bias_ids, const std::optional<at::Tensor>& bias,
                    const std::optional<at::Tensor>& seen, const std::optional<at::Tensor>& seen_of, double penalty,
                    bool untempered, bool inclusive, const std::optional<at::Tensor>& given, bool margin, bool entropy,
                    int64_t stream) {
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
    const Settings settings = {vocabulary, temperature, top_p,  top_k,   min_p,
                               untempered, inclusive,   margin, entropy, given.has_value()};
    const Changes changes(suppress, bias_ids, bias, seen, penalty, vocabulary);
    const at::Tensor look = seen ? ids(seen_of.value_or(at::Tensor()), "seen_of") : at::Tensor();
    const int64_t* looks = seen ? look.const_data_ptr<int64_t>() : nullptr;

    at::Tensor token = at::full({count}, -1, rows.options());
    const auto figure = [&](bool asked_for) {
        const auto as = logits.options().dtype(at::kFloat);
        return asked_for ? at::zeros({count}, as) : at::empty({0}, as);
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
            Edits edits;
            std::optional<ChunkedRow> fast;
            if (chunked) fast.emplace(settings, dtype_of<scalar_t>());
            for (int64_t i = begin; i < end; ++i) {
                const int64_t n = live[i];
                const scalar_t* row = data + row_of[n] * x.stride(0);
                const double u = settings.greedy() ? 0 : uniform(seed, requests[n], positions[n], steps[n], stream, 0);
                const int64_t asked_id = givens ? givens[n] : -1;
                Drawn drawn;
                changes.apply(row, looks ? looks[n] : -1, &edits);
                if (!fast || !fast->run(row, edits, u, asked_id, &drawn)) {
                    drawn = exact.run([&](int64_t id) { return static_cast<double>(row[id]); }, edits, u, asked_id);
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
