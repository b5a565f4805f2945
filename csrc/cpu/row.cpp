#include "row.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "../common/convert.h"
#include "../common/order.h"

namespace prism {
namespace {

constexpr double kLog2e = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr float kHighest = std::numeric_limits<float>::infinity();
constexpr float kNone = -kHighest;  // a logit without probability

constexpr float kHeadroom = 60;       // how far, in powers of two, a weight may exceed 1 before its reference is raised
constexpr float kSafeShift = 0x1p24;  // the top logit has to come out near 2^0
constexpr int kSample = 1024, kBins = 256;

constexpr int32_t kLastId = std::numeric_limits<int32_t>::max();

int32_t narrow(int64_t id) {
    return static_cast<int32_t>(std::min<int64_t>(id, kLastId));
}

float between(float low, float high) {
    return static_cast<float>((double(low) + double(high)) / 2);
}

// The middle of all floats between the two: halves any interval at most 32 times.
float between_bits(float low, float high) {
    const auto key = [](float x) { return uint64_t{order_key<uint32_t>(x, -kNone)}; };
    const auto middle = static_cast<uint32_t>((key(low) + key(high)) / 2);
    return float_of(middle >> 31 ? middle ^ 0x80000000u : ~middle);
}

double entr(double p) {
    return p > 0 ? -p * std::log(p) : 0;
}

}  // namespace

// ---- ExactRow ----

Drawn ExactRow::run_loaded(double u, int64_t given) {
    double top = -kInfinity;
    int64_t greedy = -1;
    for (int64_t i = 0; i < s_.vocabulary; ++i) {
        double& x = x_[i];
        x = x == x ? std::min(x, std::numeric_limits<double>::max()) : -kInfinity;
        if (x > top) top = x, greedy = i;
    }
    Drawn out;
    if (greedy < 0) return out;

    hot_.resize(x_.size());
    for (size_t i = 0; i < x_.size(); ++i) hot_[i] = std::exp((x_[i] - top) / s_.heat());
    if (s_.untempered) {
        plain_.resize(x_.size());
        for (size_t i = 0; i < x_.size(); ++i) plain_[i] = std::exp(x_[i] - top);
    }
    if (s_.truncates()) truncate(std::accumulate(hot_.begin(), hot_.end(), 0.0), top);
    const double total = std::accumulate(hot_.begin(), hot_.end(), 0.0);

    out.token = greedy;
    if (!s_.greedy()) {
        double cumulative = 0;
        for (int64_t i = 0; i < s_.vocabulary; ++i) {
            if (hot_[i] > 0) out.token = i;
            cumulative += hot_[i];
            if (cumulative > u * total) break;
        }
    }
    const std::vector<double>& shown = s_.untempered ? plain_ : hot_;
    const double mass = s_.untempered ? std::accumulate(plain_.begin(), plain_.end(), 0.0) : total;
    out.prob = shown[out.token] / mass;
    if (given >= 0 && given < s_.vocabulary) out.given = shown[given] / mass;
    if (s_.margin) {
        double first = 0, second = 0;
        for (double w : shown) {
            second = std::max(second, std::min(w, first));
            first = std::max(first, w);
        }
        out.margin = (first - second) / mass;
    }
    if (s_.entropy) {
        for (double w : shown) out.entropy += entr(w / mass);
    }
    return out;
}

void ExactRow::truncate(double total, double top) {
    order_.resize(x_.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) { return x_[a] > x_[b]; });
    int64_t keep = s_.vocabulary;
    if (s_.top_p < 1) {
        double cumulative = 0;
        int64_t within = 0;
        for (; within < s_.vocabulary; ++within) {
            cumulative += hot_[order_[within]] / total;
            if (cumulative > s_.top_p) break;
        }
        keep = s_.inclusive ? std::min(within + 1, keep) : std::max<int64_t>(within, 1);
    }
    if (s_.top_k > 0) keep = std::min(keep, s_.top_k);
    for (int64_t rank = keep; rank < s_.vocabulary; ++rank) hot_[order_[rank]] = 0;
    if (!(s_.min_p > 0)) return;
    for (int64_t i = 0; i < s_.vocabulary; ++i) {
        if (x_[i] - top < s_.heat() * std::log(s_.min_p)) hot_[i] = 0;
    }
}

// ---- ChunkedRow ----

void ChunkedRow::Distribution::put(int64_t chunk, float shift, double sum, double bits) {
    shifts[chunk] = shift;
    sums[chunk] = sum;
    bit_sums[chunk] = bits;
}

double ChunkedRow::Distribution::lift(int64_t chunk) const {
    return shifts[chunk] == base ? 1 : std::exp2(double(shifts[chunk]) - base);
}

void ChunkedRow::Distribution::close() {
    base = kNone;
    for (size_t c = 0; c < sums.size(); ++c) {
        if (sums[c] > 0) base = std::max(base, shifts[c]);
    }
    total = bits = 0;
    for (size_t c = 0; c < sums.size(); ++c) {
        if (!(sums[c] > 0)) continue;
        total += sums[c] * lift(c);
        bits += (bit_sums[c] + (double(shifts[c]) - base) * sums[c]) * lift(c);
    }
}

double ChunkedRow::Distribution::prob(float x) const {
    return std::min(std::exp2(double(x) * scale - base) / total, 1.0);
}

ChunkedRow::ChunkedRow(const Settings& settings, Dtype dtype)
    : s_(settings),
      dtype_(dtype),
      chunks_((settings.vocabulary + kChunk - 1) / kChunk),
      short_(chunks_ == 1 && settings.greedy() && !settings.truncates() && !settings.margin && !settings.entropy) {
    drawn_.scale = static_cast<float>(kLog2e / s_.heat());
    shown_.scale = s_.untempered ? static_cast<float>(kLog2e) : drawn_.scale;
    for (Distribution* d : {&drawn_, &shown_}) {
        d->shifts.resize(chunks_);
        d->sums.resize(chunks_);
        d->bit_sums.resize(chunks_);
    }
    if (s_.truncates()) {
        const int64_t room = chunks_ * kChunk + kBlock;
        for (Candidates* c : {&found_, &left_[0], &left_[1]}) c->reserve(room);
        sums_.resize(room / kBlock);
        above_.resize(chunks_);
        ends_.resize(chunks_);
    }
}

bool ChunkedRow::run(const void* row, const Edits& edits, double u, int64_t given, Drawn* out) {
    row_ = row;
    edits_ = &edits;
    copied_ = -1;
    cut_ = {kNone, s_.vocabulary};
    top_ = kNone;
    if (short_) {
        const View v = view(0);
        const Peak peak = v.kernels->peak(v.data, v.size, shown_.scale);
        if (peak.top == kNone) return true;
        if (!(std::abs(peak.shift) < kSafeShift)) return false;
        shown_.base = peak.shift;
        shown_.total = peak.sum;
        out->token = peak.first;
    } else {
        const bool show_first = s_.untempered || !s_.truncates();
        if (!scan(show_first)) return false;
        if (drawn_.total == 0) return true;  // nothing to draw from
        if (s_.truncates()) {
            cut_ = cut();
            copied_ = -1;
            const bool figures = !show_first && (s_.margin || s_.entropy);
            if (figures || !settle(!show_first)) scan(!show_first);
        }
        out->token = s_.greedy() ? first_top() : draw(u);
    }
    out->prob = shown_.prob(logit(out->token));
    if (s_.margin) out->margin = shown_.prob(top_) - (second_ > kNone ? shown_.prob(second_) : 0);
    if (s_.entropy) out->entropy = std::max(kLn2 * (std::log2(shown_.total) - shown_.bits / shown_.total), 0.0);
    if (given >= 0 && given < s_.vocabulary) {
        const float x = logit(given);
        const bool kept = s_.untempered || x > cut_.value || (x == cut_.value && given <= cut_.last);
        if (kept && x > kNone) out->given = shown_.prob(x);
    }
    return true;
}

bool ChunkedRow::scan(bool show) {
    const bool two = show && shown_.scale != drawn_.scale;
    const bool figures = show && (s_.margin || s_.entropy);
    const int kind = (two ? 1 : 0) | (figures ? 2 : 0) | (cut_.value > kNone ? 4 : 0);
    const float slack = kHeadroom / std::max(drawn_.scale, shown_.scale);
    float reference = top_;  // not known at the first scan
    float first = kNone, second = kNone;
    for (int64_t c = 0; c < chunks_; ++c) {
        const View v = view(c);
        ChunkSums sums = {0, 0, 0, kNone, kNone};
        Weigh drawn = {drawn_.scale, 0}, shown = {shown_.scale, 0};
        if (reference == kNone) reference = v.kernels->top(v.data, v.size);
        while (reference > kNone) {
            drawn.shift = drawn.scale * reference;
            shown.shift = shown.scale * reference;
            const bool safe = std::abs(drawn.shift) < kSafeShift && std::abs(shown.shift) < kSafeShift;  // not NaN
            if (!safe) return false;
            sums = v.kernels->sums[kind](v.data, v.size, drawn, shown, floor(c));
            if (sums.top <= reference + slack) break;
            reference = sums.top;
        }
        drawn_.put(c, drawn.shift, sums.drawn, 0);
        if (show) shown_.put(c, shown.shift, sums.shown, sums.bits);
        second = std::max({second, sums.second, std::min(sums.top, first)});
        if (sums.top > first) {
            first = sums.top;
            top_chunk_ = c;
        }
    }
    top_ = first;
    drawn_.close();
    if (show) {
        second_ = second;
        shown_.close();
    }
    return true;
}

ChunkedRow::View ChunkedRow::view(int64_t chunk) {
    const int64_t begin = chunk * kChunk, end = std::min(begin + kChunk, s_.vocabulary);
    const auto first = edit(begin), last = edit(end);
    const bool split = cut_.value > kNone && begin <= cut_.last && cut_.last + 1 < end;
    if (end - begin == kChunk && first == last && !split) return {&kernels(dtype_), at(begin), kChunk};
    const int size = static_cast<int>((end - begin + kBlock - 1) / kBlock * kBlock);
    if (copied_ != chunk) {
        copied_ = split ? -1 : chunk;  // a cut in the middle holds for this row only as long as the cut
        kernels(dtype_).widen(at(begin), static_cast<int>(end - begin), copy_);
        for (auto e = first; e != last; ++e) copy_[e->id - begin] = static_cast<float>(e->value);
        for (int64_t id = split ? cut_.last + 1 : end; id < end; ++id) {
            if (copy_[id - begin] == cut_.value) copy_[id - begin] = kNone;
        }
    }
    return {&kernels(Dtype::kFloat), copy_, size};
}

float ChunkedRow::floor(int64_t chunk) const {
    const bool ties_are_out = chunk * kChunk > cut_.last;
    return ties_are_out ? std::nextafter(cut_.value, kHighest) : cut_.value;
}

const void* ChunkedRow::at(int64_t id) const {
    return static_cast<const char*>(row_) + id * (dtype_ == Dtype::kFloat ? sizeof(float) : sizeof(uint16_t));
}

float ChunkedRow::raw(int64_t id) const {
    switch (dtype_) {
        case Dtype::kFloat:
            return *static_cast<const float*>(at(id));
        case Dtype::kBFloat16:
            return *static_cast<const c10::BFloat16*>(at(id));
        default:
            return *static_cast<const c10::Half*>(at(id));
    }
}

Edits::const_iterator ChunkedRow::edit(int64_t id) const {
    return std::lower_bound(edits_->begin(), edits_->end(), id, [](const Edit& e, int64_t i) { return e.id < i; });
}

float ChunkedRow::logit(int64_t id) const {
    const auto changed = edit(id);
    const float x = changed != edits_->end() && changed->id == id ? static_cast<float>(changed->value) : raw(id);
    return x == x ? x : kNone;
}

int64_t ChunkedRow::first_top() {
    const View v = view(top_chunk_);
    return top_chunk_ * kChunk + v.kernels->find(v.data, v.size, top_);
}

// The first id whose cumulative weight exceeds u times the total.
int64_t ChunkedRow::draw(double u) {
    double left = u * drawn_.total;
    int64_t chunk = -1;
    for (int64_t c = 0; c < chunks_; ++c) {
        if (!(drawn_.sums[c] > 0)) continue;
        if (chunk >= 0) left -= drawn_.sums[chunk] * drawn_.lift(chunk);
        chunk = c;
        if (left < drawn_.sums[c] * drawn_.lift(c)) break;
    }
    left /= drawn_.lift(chunk);
    const View v = view(chunk);
    v.kernels->weights(v.data, v.size, {drawn_.scale, drawn_.shifts[chunk]}, floor(chunk), weights_, block_sums_);
    int block = 0;
    for (const int blocks = v.size / kBlock; block + 1 < blocks && left >= block_sums_[block]; ++block) {
        left -= block_sums_[block];
    }
    int i = block * kBlock;
    for (const int end = i + kBlock - 1; i < end && left >= weights_[i]; ++i) left -= weights_[i];
    while (!(weights_[i] > 0)) --i;  // rounding may carry past the last weight, never past all: the chunk has some
    return chunk * kChunk + i;
}

// The tightest of what top_k, top_p and min_p leave; found_ lists the logits around it, or all above it.
ChunkedRow::Cut ChunkedRow::cut() {
    const Cut cut = s_.ranks() ? ranked() : cut_;
    if (!(s_.min_p > 0)) return cut;
    const Cut likely = least_likely();
    if (s_.ranks() && cut.value >= likely.value) return cut;
    found_.size = 0;
    for (int64_t c = 0; c < chunks_; ++c) {
        const View v = view(c);
        above_[c] = 0;
        found_.size += v.kernels->collect(v.data, v.size, static_cast<int32_t>(c * kChunk), {0, 0}, likely.value,
                                          kHighest, &found_.x[found_.size], &found_.id[found_.size], &above_[c]);
        ends_[c] = found_.size;
    }
    weigh(found_);
    counted_ = false;
    return likely;
}

// All that are at least min_p times as likely as the top one.
ChunkedRow::Cut ChunkedRow::least_likely() const {
    const double below = s_.heat() * std::log(s_.min_p);  // at most 0
    float value = static_cast<float>(top_ + below);
    while (double(value) - top_ < below) value = std::nextafter(value, kHighest);
    while (double(std::nextafter(value, kNone)) - top_ >= below) value = std::nextafter(value, kNone);
    return {std::max(value, kLowest), s_.vocabulary};
}

ChunkedRow::Cut ChunkedRow::ranked() {
    const bool by_rank = s_.top_k > 0 && s_.top_k < s_.vocabulary, by_weight = s_.top_p < 1;
    const double limit = s_.top_p * drawn_.total;
    if (by_rank) {
        const Cut cut = crossing(true, static_cast<double>(s_.top_k), false);
        if (!by_weight) return cut;
        if (found_.size >=
            0) {  // all that rank first are listed: where they outweigh the limit it is crossed among them
            weigh(found_);
            counted_ = false;
            const double kept = lists().weight(found_.from(0), found_.size, cut.value, narrow(cut.last));
            return kept > limit ? resolve({kLowest, kHighest}, 0, limit, s_.inclusive) : cut;
        }
    }
    return crossing(false, limit, s_.inclusive);
}

// Where the weight (or number) of the largest logits first exceeds the limit. Collects the logits around a guess, and,
// where the crossing is not among them, all that could be it.
ChunkedRow::Cut ChunkedRow::crossing(bool count, double limit, bool inclusive) {
    const Weigh by = {count ? 0 : drawn_.scale, drawn_.base};
    for (Bracket bracket : {guess(count, limit), certain(count, limit)}) {
        if (count && s_.top_p < 1) bracket.high = kHighest;
        double above = 0;
        int64_t size = 0;
        for (int64_t c = 0; c < chunks_; ++c) {
            const View v = view(c);
            above_[c] = 0;
            size += v.kernels->collect(v.data, v.size, static_cast<int32_t>(c * kChunk), by, bracket.low, bracket.high,
                                       &found_.x[size], &found_.id[size], &above_[c]);
            above += above_[c];
            ends_[c] = size;
        }
        found_.size = size;
        if (count) {
            std::fill_n(found_.weight.get(), size, 1.0f);
        } else {
            weigh(found_);
        }
        if (above <= limit && above + lists().weight(found_.from(0), size, kLowest, kLastId) > limit) {
            counted_ = count;
            return resolve(bracket, above, limit, inclusive);
        }
    }
    found_.size = -1;
    return {kNone, s_.vocabulary};  // all of them together do not exceed the limit
}

void ChunkedRow::weigh(Candidates& list) {
    const int64_t padded = (list.size + kBlock - 1) / kBlock * kBlock;
    std::fill(&list.x[list.size], &list.x[padded], kNone);
    kernels(Dtype::kFloat)
        .weights(list.x.get(), static_cast<int>(padded), {drawn_.scale, drawn_.base}, kNone, list.weight.get(),
                 sums_.data());
}

// The sums over what the cut keeps, from what its search has already summed and listed. False where that is not enough.
bool ChunkedRow::settle(bool show) {
    if (found_.size < 0 || (counted_ && std::any_of(above_.begin(), above_.end(), [](double n) { return n > 0; }))) {
        return false;
    }
    if (counted_) weigh(found_);
    for (int64_t c = 0, begin = 0; c < chunks_; begin = ends_[c++]) {
        const double found = lists().weight(found_.from(begin), ends_[c] - begin, cut_.value, narrow(cut_.last));
        drawn_.put(c, drawn_.base, above_[c] + found, 0);
    }
    drawn_.close();
    if (show) shown_ = drawn_;
    return true;
}

// Every logit below this bracket together weighs less than what the limit leaves out.
ChunkedRow::Bracket ChunkedRow::certain(bool count, double limit) const {
    if (count) return {kLowest, kHighest};
    const double lightest = std::log2((drawn_.total - limit) / static_cast<double>(s_.vocabulary)) - 0.01;
    return {std::max(kLowest, static_cast<float>((lightest + drawn_.base) / drawn_.scale)), kHighest};
}

// A narrow bracket from a sample of the row; a pure function of the row, so that the result is too.
ChunkedRow::Bracket ChunkedRow::guess(bool count, double limit) {
    const Bracket all = certain(count, limit);
    if (s_.vocabulary < 4 * kSample) return all;
    const double share = static_cast<double>(s_.vocabulary) / kSample;
    left_[0].size = kSample;
    float* sample = left_[0].x.get();
    for (int i = 0; i < kSample; ++i) {
        const float x = raw(static_cast<int64_t>(i * share));
        sample[i] = x <= top_ ? x : kNone;  // no NaN, and nothing suppressed that would outweigh all
    }
    if (count) {
        const double rank = limit / share, spread = 4 * std::sqrt(rank) + 8;
        const auto ranked = [&](double r) {
            float *nth = sample + static_cast<int>(r), *end = sample + kSample;
            if (r < kSample / 16) {
                std::partial_sort(sample, nth + 1, end, std::greater<float>());  // most are behind the few at a glance
            } else {
                std::nth_element(sample, nth, end, std::greater<float>());
            }
            return *nth;
        };
        return {rank + spread < kSample ? std::max(ranked(rank + spread), kLowest) : all.low,
                rank - spread > 0 ? ranked(rank - spread) : all.high};
    }
    // The heavy head may hide between the samples, the many light logits do not: find where their weight, counted from
    // below, reaches what the limit leaves out.
    weigh(left_[0]);
    std::array<double, kBins + 1> weight{}, square{};  // bin 0: below the certain bracket
    const float per_value = kBins / (top_ - all.low);
    for (int i = 0; i < kSample; ++i) {
        const auto bin = static_cast<int>(std::clamp((sample[i] - all.low) * per_value + 1, 0.0f, float(kBins)));
        const double w = left_[0].weight[i];
        weight[bin] += w;
        square[bin] += w * w;
    }
    Bracket bracket = all;
    const double wanted = (drawn_.total - limit) / share;
    double light = 0, squares = 0;
    for (int bin = 0; bin <= kBins; ++bin) {
        light += weight[bin];
        squares += square[bin];
        const double missing = wanted - light;
        if (missing * missing < 6 * squares) continue;  // within 2.5 deviations of a sum of independent samples
        const float edge = all.low + bin / per_value;
        if (missing > 0) bracket.low = edge;
        if (missing < 0) {
            bracket.high = edge;
            break;
        }
    }
    return bracket;
}

// The crossing among logits that follow a weight of `before`: halves of the bracket until few are left, then a sort.
ChunkedRow::Cut ChunkedRow::resolve(Bracket within, double before, double limit, bool inclusive) {
    Candidates* from = &found_;
    int64_t size = found_.size;
    float low = within.low, high = std::min(within.high, std::nextafter(top_, -kNone));
    for (int turn = 0; size > 32; ++turn) {
        const float middle = turn % 2 ? between_bits(low, high) : between(low, high);
        if (!(low < middle && middle < high)) {
            if (turn % 2) break;  // ties alone are left
            continue;
        }
        const double heavy = lists().weight(from->from(0), size, middle, kLastId);
        const bool upper = before + heavy > limit;
        Candidates* to = &left_[from == &left_[0]];
        const int64_t left =
            lists().pick(from->from(0), size, upper ? middle : low, upper ? high : middle, to->from(0));
        if (upper || left == 0) {  // none below: rounding keeps all of them within the limit
            low = middle;
        } else {
            high = middle;
            before += heavy;
        }
        if (left == 0) continue;
        from = to;
        size = left;
    }
    std::vector<int64_t> order(size);  // by value, ties by id, which is how they were collected
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return from->x[a] > from->x[b]; });
    size_t i = 0;
    for (; i + 1 < order.size() && before + from->weight[order[i]] <= limit; ++i) before += from->weight[order[i]];
    const bool keep = inclusive || before == 0;  // before == 0: the largest of all, which always stays
    return {from->x[order[i]], keep ? from->id[order[i]] : from->id[order[i]] - 1};
}

}  // namespace prism
