// The k lowest or highest scores of every row, k its own in every row.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "../common/order.h"
#include "kernels.h"
#include "ops.h"

namespace prism {
namespace {

int64_t below(const uint32_t* keys, int64_t n, uint32_t limit) {
    return counters().below32(keys, n, limit);
}
int64_t below(const uint64_t* keys, int64_t n, uint64_t limit) {
    return counters().below64(keys, n, limit);
}

// Marks the `count` lowest keys, ties by index, by bisection of the key: each of its steps counts a whole row at the
// speed of the cache and branches once. It ends as soon as a limit parts exactly `count`, after about log2(n) steps.
// The largest key of all marks what is not eligible.
template <typename Key>
void mark_lowest(const Key* keys, int64_t n, int64_t count, bool* chosen) {
    Key low = 0, high = ~Key{0};  // fewer than count keys are below low, at least count below high
    const int64_t total = below(keys, n, high);
    count = std::clamp<int64_t>(count, 0, total);
    Key limit = count == 0 ? low : high;
    int64_t ties = 0;
    if (count > 0 && count < total) {
        int64_t fewer = 0, found = total;
        while (high - low > 1 && found != count) {
            const Key middle = low + (high - low) / 2;
            found = below(keys, n, middle);
            if (found < count) {
                low = middle;
                fewer = found;
            } else {
                high = middle;
            }
        }
        limit = found == count ? high : low;
        ties = found == count ? 0 : count - fewer;
    }
    for (int64_t i = 0; i < n; ++i) chosen[i] = keys[i] < limit;
    for (int64_t i = 0; ties > 0; ++i) {
        if (keys[i] != limit) continue;
        chosen[i] = true;
        --ties;
    }
}

// Calls write(i) for every chosen i, eight at a look.
template <typename Write>
void each(const bool* chosen, int64_t n, Write write) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t eight;
        std::memcpy(&eight, chosen + i, sizeof eight);
        for (int j = 0; eight && j < 8; ++j) {
            if (chosen[i + j]) write(i + j);
        }
    }
    for (; i < n; ++i) {
        if (chosen[i]) write(i);
    }
}

template <typename scalar_t, typename Finish>
void select_rows(const at::Tensor& scores, const bool* eligible, const int64_t* counts, bool highest, bool* chosen,
                 Finish finish) {
    using Key = std::conditional_t<std::is_same_v<scalar_t, double>, uint64_t, uint32_t>;
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    const int64_t length = scores.size(1), down = scores.stride(0);
    const scalar_t* data = scores.const_data_ptr<scalar_t>();
    const Key flip = highest ? ~Key{0} : Key{0};
    at::parallel_for(0, scores.size(0), 1 + 16384 / (length + 1), [&](int64_t begin, int64_t end) {
        std::vector<Key> keys(length);
        for (int64_t b = begin; b < end; ++b) {
            const scalar_t* row = data + b * down;
            const bool* allowed = eligible + b * length;
            if constexpr (std::is_same_v<scalar_t, double>) {
                for (int64_t i = 0; i < length; ++i) {
                    keys[i] = (order_key<Key>(row[i], kInfinity) ^ flip) | (Key{allowed[i]} - 1);  // all ones if barred
                }
            } else {
                kernels(dtype_of<scalar_t>()).keys(row, allowed, length, flip, keys.data());
            }
            mark_lowest(keys.data(), length, counts[b], chosen + b * length);
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
    const at::Tensor x = scores.stride(1) == 1 ? scores : scores.contiguous();
    at::Tensor chosen = at::empty(scores.sizes(), scores.options().dtype(at::kBool));
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, scores.scalar_type(), "prism_select", [&] {
        select_rows<scalar_t>(x, allowed.const_data_ptr<bool>(), wanted.const_data_ptr<int64_t>(), highest,
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
            each(chosen, length, [=](int64_t i) { data[b * down + i * across] = static_cast<index_t>(mask_id); });
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
            each(chosen, length, [=](int64_t i) { data[b * down + i * across] = fill[b * length + i]; });
        });
    });
}

Filled fill_rows(const at::Tensor& tokens, const at::Tensor& written, const at::Tensor& index, const at::Tensor& token,
                 const at::Tensor& prob, const std::optional<at::Tensor>& rank,
                 const std::optional<at::Tensor>& counts) {
    TORCH_CHECK_VALUE(tokens.dim() == 2 && written.sizes() == tokens.sizes(),
                      "prism: tokens and written must be (B, L), not ", tokens.sizes(), ", ", written.sizes(), ".");
    TORCH_CHECK_VALUE(index.dim() == 1 && token.sizes() == index.sizes() && prob.sizes() == index.sizes() &&
                          rank.has_value() == counts.has_value() && (!rank || rank->sizes() == index.sizes()) &&
                          (!counts || counts->sizes() == tokens.sizes().slice(0, 1)),
                      "prism: index, token, prob and rank must be (N,), counts (B,), the last two both or neither.");
    TORCH_CHECK_TYPE(tokens.scalar_type() == at::kLong && token.scalar_type() == at::kLong &&
                         index.scalar_type() == at::kLong && written.scalar_type() == at::kFloat &&
                         prob.scalar_type() == at::kFloat && (!rank || rank->scalar_type() == at::kFloat) &&
                         (!counts || counts->scalar_type() == at::kLong),
                     "prism: tokens, token, index and counts must be int64, written, prob and rank float32.");
    const at::Tensor places = index.contiguous(), fills = token.contiguous(), probs = prob.contiguous();
    const int64_t *place = places.const_data_ptr<int64_t>(), *fill = fills.const_data_ptr<int64_t>();
    const int64_t number = index.numel(), length = tokens.size(1), all = tokens.numel();
    const auto fills_one = [&](int64_t n) { return place[n] >= 0 && fill[n] >= 0; };
    const Filled out = {tokens.clone(at::MemoryFormat::Contiguous), written.clone(at::MemoryFormat::Contiguous),
                        at::empty(tokens.sizes(), tokens.options().dtype(at::kBool))};
    bool* chosen = std::get<2>(out).mutable_data_ptr<bool>();
    for (int64_t n = 0; n < number; ++n) {
        TORCH_CHECK_INDEX(place[n] >= -1 && place[n] < all, "prism: place ", place[n], " is outside a table of ", all,
                          " (-1 is none).");
    }
    if (rank) {
        const at::Tensor ranks = rank->contiguous(), wanted = counts->contiguous();
        const float* figure = ranks.const_data_ptr<float>();
        const int64_t* count = wanted.const_data_ptr<int64_t>();
        std::vector<uint32_t> keys(all, ~uint32_t{0});  // all ones where nothing is listed
        for (int64_t n = 0; n < number; ++n) {
            if (fills_one(n)) keys[place[n]] = ~order_key<uint32_t>(figure[n], std::numeric_limits<float>::infinity());
        }
        for (int64_t b = 0; b < tokens.size(0); ++b) {
            mark_lowest(keys.data() + b * length, length, count[b], chosen + b * length);
        }
    } else {
        std::fill_n(chosen, all, false);
        for (int64_t n = 0; n < number; ++n) {
            if (fills_one(n)) chosen[place[n]] = true;
        }
    }
    int64_t* text = std::get<0>(out).mutable_data_ptr<int64_t>();
    float* known = std::get<1>(out).mutable_data_ptr<float>();
    const float* likely = probs.const_data_ptr<float>();
    for (int64_t n = 0; n < number; ++n) {
        if (fills_one(n) && chosen[place[n]]) text[place[n]] = fill[n], known[place[n]] = likely[n];
    }
    return out;
}

}  // namespace prism
