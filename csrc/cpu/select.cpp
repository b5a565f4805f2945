// The k lowest or highest scores of every row, by one histogram of leading key bits and one nth_element inside a bin.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "../common/order.h"
#include "ops.h"

namespace prism {
namespace {

constexpr int kBits = 11;

template <typename Key>
class Selector {
  public:
    // Sets chosen[0, n) and returns how many it chose. A key is looked at only where eligible.
    template <typename KeyAt>
    void run(KeyAt key_at, const bool* eligible, int64_t n, int64_t count, bool* chosen) {
        keys_.resize(n);
        histogram_.fill(0);
        int64_t total = 0;
        for (int64_t i = 0; i < n; ++i) {
            keys_[i] = key_at(i);
            histogram_[keys_[i] >> kShift] += eligible[i];
            total += eligible[i];
        }
        if (count <= 0 || count >= total) {
            for (int64_t i = 0; i < n; ++i) chosen[i] = count > 0 && eligible[i];
            return;
        }
        Key bin = 0;
        for (; count > histogram_[bin]; ++bin) count -= histogram_[bin];
        inside_.clear();
        for (int64_t i = 0; i < n; ++i) {
            if (eligible[i] && keys_[i] >> kShift == bin) inside_.emplace_back(keys_[i], i);
        }
        const auto last = inside_.begin() + (count - 1);
        std::nth_element(inside_.begin(), last, inside_.end());
        for (int64_t i = 0; i < n; ++i) {
            chosen[i] = eligible[i] & ((keys_[i] < last->first) | ((keys_[i] == last->first) & (i <= last->second)));
        }
    }

  private:
    static constexpr int kShift = 8 * sizeof(Key) - kBits;
    std::vector<Key> keys_;
    std::array<int64_t, 1 << kBits> histogram_;
    std::vector<std::pair<Key, int64_t>> inside_;
};

template <typename scalar_t, typename Finish>
void select_rows(const at::Tensor& scores, const bool* eligible, const int64_t* counts, bool highest, bool* chosen,
                 Finish finish) {
    using Real = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    using Key = std::conditional_t<std::is_same_v<scalar_t, double>, uint64_t, uint32_t>;
    const int64_t length = scores.size(1), across = scores.stride(1), down = scores.stride(0);
    const scalar_t* data = scores.const_data_ptr<scalar_t>();
    const Key flip = highest ? ~Key{0} : Key{0};
    at::parallel_for(0, scores.size(0), 1 + 16384 / (length + 1), [&](int64_t begin, int64_t end) {
        Selector<Key> selector;
        for (int64_t b = begin; b < end; ++b) {
            const scalar_t* row = data + b * down;
            const auto key_at = [&](int64_t i) {
                return order_key<Key, Real>(static_cast<Real>(row[i * across]), std::numeric_limits<Real>::infinity()) ^
                       flip;
            };
            selector.run(key_at, eligible + b * length, length, counts[b], chosen + b * length);
            finish(b, chosen + b * length);
        }
    });
}

template <typename Finish>
at::Tensor select(const at::Tensor& scores, const at::Tensor& eligible, const at::Tensor& counts, bool highest,
                  Finish finish) {
    TORCH_CHECK_VALUE(scores.dim() == 2 && eligible.sizes() == scores.sizes() && counts.dim() == 1 &&
                          counts.size(0) == scores.size(0),
                      "prism: scores and eligible must be (B, L) and counts (B,), not ", scores.sizes(), ", ",
                      eligible.sizes(), ", ", counts.sizes(), ".");
    TORCH_CHECK_TYPE(eligible.scalar_type() == at::kBool && counts.scalar_type() == at::kLong,
                     "prism: eligible must be bool and counts int64.");
    const at::Tensor allowed = eligible.contiguous(), wanted = counts.contiguous();
    at::Tensor chosen = at::empty(scores.sizes(), scores.options().dtype(at::kBool));
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, scores.scalar_type(), "prism_select", [&] {
        select_rows<scalar_t>(scores, allowed.const_data_ptr<bool>(), wanted.const_data_ptr<int64_t>(), highest,
                              chosen.mutable_data_ptr<bool>(), finish);
    });
    return chosen;
}

void check_tokens(const at::Tensor& tokens, const at::Tensor& scores) {
    TORCH_CHECK_VALUE(tokens.sizes() == scores.sizes(), "prism: tokens must be ", scores.sizes(),
                      " like the scores, not ", tokens.sizes(), ".");
}

}  // namespace

at::Tensor select_lowest(const at::Tensor& scores, const at::Tensor& eligible, const at::Tensor& counts) {
    return select(scores, eligible, counts, false, [](int64_t, const bool*) {});
}

at::Tensor select_highest(const at::Tensor& scores, const at::Tensor& eligible, const at::Tensor& counts) {
    return select(scores, eligible, counts, true, [](int64_t, const bool*) {});
}

at::Tensor remask_scatter_(at::Tensor& tokens, const at::Tensor& scores, const at::Tensor& eligible,
                           const at::Tensor& counts, int64_t mask_id) {
    check_tokens(tokens, scores);
    return AT_DISPATCH_INDEX_TYPES(tokens.scalar_type(), "prism_remask", [&] {
        index_t* data = tokens.mutable_data_ptr<index_t>();
        const int64_t length = tokens.size(1), down = tokens.stride(0), across = tokens.stride(1);
        return select(scores, eligible, counts, false, [=](int64_t b, const bool* chosen) {
            for (int64_t i = 0; i < length; ++i) {
                if (chosen[i]) data[b * down + i * across] = static_cast<index_t>(mask_id);
            }
        });
    });
}

at::Tensor fill_scatter_(at::Tensor& tokens, const at::Tensor& x0, const at::Tensor& confidence,
                         const at::Tensor& eligible, const at::Tensor& counts) {
    check_tokens(tokens, confidence);
    check_tokens(x0, confidence);
    TORCH_CHECK_TYPE(x0.scalar_type() == tokens.scalar_type(), "prism: x0 and tokens must have one dtype.");
    const at::Tensor fills = x0.contiguous();
    return AT_DISPATCH_INDEX_TYPES(tokens.scalar_type(), "prism_fill", [&] {
        index_t* data = tokens.mutable_data_ptr<index_t>();
        const index_t* fill = fills.const_data_ptr<index_t>();
        const int64_t length = tokens.size(1), down = tokens.stride(0), across = tokens.stride(1);
        return select(confidence, eligible.logical_and(x0.ge(0)), counts, true, [=](int64_t b, const bool* chosen) {
            for (int64_t i = 0; i < length; ++i) {
                if (chosen[i]) data[b * down + i * across] = fill[b * length + i];
            }
        });
    });
}

}  // namespace prism
