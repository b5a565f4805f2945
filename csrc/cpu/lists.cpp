// Chosen positions of a table as a list, figures of a list as a table, and where every row stands.

#include <ATen/Dispatch.h>

#include <algorithm>

#include "ops.h"

namespace prism {

List list_rows(const at::Tensor& where, const at::Tensor& request, const at::Tensor& place, const at::Tensor& step,
               std::optional<int64_t> size) {
    TORCH_CHECK_VALUE(where.dim() == 2 && place.sizes() == where.sizes() &&
                          request.sizes() == where.sizes().slice(0, 1) && step.sizes() == request.sizes(),
                      "prism: where and place must be (B, L), request and step (B,), not ", where.sizes(), ", ",
                      place.sizes(), ", ", request.sizes(), ", ", step.sizes(), ".");
    const at::Tensor chosen = where.contiguous(), who = request.contiguous(), stands = place.contiguous(),
                     when = step.contiguous();
    const bool* flags = chosen.const_data_ptr<bool>();
    const int64_t all = where.numel(), length = where.size(1);
    const int64_t *requests = who.const_data_ptr<int64_t>(), *places = stands.const_data_ptr<int64_t>(),
                  *steps = when.const_data_ptr<int64_t>();
    const int64_t count = size.value_or(std::count(flags, flags + all, true));
    TORCH_CHECK_INDEX(count == 0 || all > 0, "prism: nothing to list in a table of ", where.sizes(), ".");
    const auto list = [&] { return at::empty({count}, request.options()); };
    const List out = {list(), list(), list(), list()};
    const auto data = [](const at::Tensor& t) { return t.mutable_data_ptr<int64_t>(); };
    int64_t *index = data(std::get<0>(out)), *of = data(std::get<1>(out)), *position = data(std::get<2>(out)),
            *at_step = data(std::get<3>(out)), n = 0;
    const auto put = [&](int64_t i, int64_t from, int64_t row) {
        index[n] = i, of[n] = requests[row], position[n] = places[from], at_step[n++] = steps[row];
    };
    for (int64_t i = 0; i < all && n < count; ++i) {
        if (flags[i]) put(i, i, i / length);
    }
    while (n < count) put(-1, all - 1, where.size(0) - 1);
    return out;
}

at::Tensor spread(const at::Tensor& index, const at::Tensor& values, double fill, at::IntArrayRef shape) {
    TORCH_CHECK_VALUE(index.dim() == 1 && index.sizes() == values.sizes(), "prism: index and values must be (N,), not ",
                      index.sizes(), ", ", values.sizes(), ".");
    at::Tensor table = at::full(shape, fill, values.options());
    const at::Tensor to = index.contiguous(), from = values.contiguous();
    const int64_t *places = to.const_data_ptr<int64_t>(), all = table.numel();
    AT_DISPATCH_ALL_TYPES_AND3(at::kHalf, at::kBFloat16, at::kBool, values.scalar_type(), "prism_spread", [&] {
        scalar_t* data = table.mutable_data_ptr<scalar_t>();
        const scalar_t* value = from.const_data_ptr<scalar_t>();
        for (int64_t n = 0; n < index.numel(); ++n) {
            TORCH_CHECK_INDEX(places[n] >= -1 && places[n] < all, "prism: place ", places[n], " is outside a table of ",
                              all, " (-1 is none).");
            if (places[n] >= 0) data[places[n]] = value[n];
        }
    });
    return table;
}

std::tuple<at::Tensor, at::Tensor> live_rows(const at::Tensor& index) {
    const at::Tensor from = index.contiguous();
    at::Tensor rows = at::empty_like(from), which = at::empty_like(from);
    const int64_t* data = from.const_data_ptr<int64_t>();
    int64_t *row = rows.mutable_data_ptr<int64_t>(), *number = which.mutable_data_ptr<int64_t>();
    for (int64_t n = 0; n < index.numel(); ++n) {
        row[n] = std::max<int64_t>(data[n], 0);
        number[n] = data[n] < 0 ? -1 : n;
    }
    return {rows, which};
}

at::Tensor even_split(const at::Tensor& step, const at::Tensor& size, const at::Tensor& steps) {
    for (const at::Tensor& each : {step, size, steps}) {
        TORCH_CHECK_VALUE(each.sizes() == step.sizes() && each.scalar_type() == at::kLong,
                          "prism: step, size and steps must be int64 of one shape, not ", each.scalar_type(), " ",
                          each.sizes(), ".");
    }
    const at::Tensor at = step.contiguous(), all = size.contiguous(), most = steps.contiguous();
    at::Tensor out = at::empty_like(at);
    const int64_t *now = at.const_data_ptr<int64_t>(), *whole = all.const_data_ptr<int64_t>(),
                  *parts = most.const_data_ptr<int64_t>();
    int64_t* target = out.mutable_data_ptr<int64_t>();
    for (int64_t b = 0; b < step.numel(); ++b) {
        TORCH_CHECK_VALUE(parts[b] > 0, "prism: steps must be positive, not ", parts[b], ".");
        const int64_t done = std::min(now[b] + 1, parts[b]);
        target[b] = whole[b] / parts[b] * done + std::min(done, whole[b] % parts[b]);
    }
    return out;
}

Stand end_step(const at::Tensor& step, const at::Tensor& block, const at::Tensor& block_step, const at::Tensor& blocks,
               const at::Tensor& budget, const std::optional<at::Tensor>& done) {
    for (const at::Tensor& each : {step, block, block_step, blocks, budget}) {
        TORCH_CHECK_VALUE(each.dim() == 1 && each.numel() == step.numel() && each.scalar_type() == at::kLong,
                          "prism: step, block, block_step, blocks and budget must be int64 (B,), not ",
                          each.scalar_type(), " ", each.sizes(), ".");
    }
    TORCH_CHECK_VALUE(!done || (done->sizes() == step.sizes() && done->scalar_type() == at::kBool),
                      "prism: done must be bool (B,).");
    const auto copy = [](const at::Tensor& t) { return t.clone(at::MemoryFormat::Contiguous); };
    const Stand out = {copy(step), copy(block), copy(block_step)};
    const auto data = [](const at::Tensor& t) { return t.mutable_data_ptr<int64_t>(); };
    int64_t *taken = data(std::get<0>(out)), *in = data(std::get<1>(out)), *of_it = data(std::get<2>(out));
    const at::Tensor all = blocks.contiguous(), steps = budget.contiguous();
    const at::Tensor over = done ? done->contiguous() : at::Tensor();
    const int64_t *most = all.const_data_ptr<int64_t>(), *enough = steps.const_data_ptr<int64_t>();
    const bool* early = done ? over.const_data_ptr<bool>() : nullptr;
    for (int64_t b = 0; b < step.numel(); ++b) {
        if (in[b] >= most[b]) continue;  // finished
        ++taken[b];
        if (++of_it[b] >= enough[b] || (early && early[b])) {
            ++in[b];
            of_it[b] = 0;
        }
    }
    return out;
}

}  // namespace prism
