// Drawing a token from every row of logits, in two launches.
//
// Scan: a warp takes one chunk of a row into its registers, 16 bytes a load and all of them in flight, and leaves the
// largest logit and the sums of exponentials, each on the chunk's own scale. So a row is read once, at the width of the
// memory, and few rows fill a GPU as well as many; no sum depends on how the work was split.
// Finish: a block a row joins the chunks in their order, draws one and reads it again. Where top_k, top_p or min_p cut
// the row, histograms over the order keys, in integers, narrow the edge down to at most kCandidates logits, which are
// sorted in shared memory; only chunks that reach into the interval are read for it. Ties rank by lower id, as on the
// CPU.

#include "block.cuh"

namespace prism {
namespace {

constexpr int kChunk = 2048, kMaxChunks = 512, kPer = kChunk / kWarp;  // logits a lane
constexpr int kBins = 512, kCandidateBytes = 8192;
constexpr double kFixed = 68719476736.0;  // 2^36: weights as integers, whose sums have no order

__device__ inline float exponential(float x) {
    return __expf(x);
}
__device__ inline double exponential(double x) {
    return exp(x);
}

template <typename Real>
struct Stat {  // of a chunk; sums are of exp((x - top) * scale), bits of that times its exponent
    Real top, second, hot, plain, bits;
};

template <typename Real>
struct Cut {  // kept: x > value, and x == value at an id below end
    Real value;
    int64_t end;
    __device__ bool keeps(Real x, int64_t id) const { return x > value || (x == value && id < end); }
};

// What the row's settings come to.
template <typename Real>
struct Scales {
    Real hot, plain;  // factors of a logit under the distribution drawn from and the one shown
    __device__ explicit Scales(const PrismSample& a) {
        const double heat = a.temperature > 0 ? a.temperature : 1, inverse = 1 / heat;
        hot = static_cast<Real>(inverse < Limits<Real>::largest ? inverse : Limits<Real>::largest);
        plain = a.untempered ? Real{1} : hot;
    }
};

template <typename T, int bytes>
struct alignas(bytes) Pack {
    T x[bytes / sizeof(T)];
};

// Logit of a chunk that lane `lane` holds as its k-th.
template <typename T, int bytes>
__device__ inline int place(int k, int lane) {
    constexpr int wide = bytes / sizeof(T);
    return (k / wide * static_cast<int>(kWarp) + lane) * wide + k % wide;
}

template <typename Real>
__device__ inline Real cleaned(Real x) {  // NaN counts as -inf, +inf as the largest number
    return x == x ? smaller(x, Limits<Real>::largest) : -Limits<Real>::infinity;
}

template <typename Real>
__device__ inline Real penalised(Real x, Real penalty) {  // of a cleaned x, whose largest number was infinite: it stays
    return x < Limits<Real>::largest ? smaller(x > 0 ? x / penalty : x * penalty, Limits<Real>::largest) : x;
}

// Calls hit(id - begin, number in the list) for what a list of ids has in a chunk, the whole warp together.
template <typename Hit>
__device__ void in_chunk(const int64_t* ids, int64_t count, int64_t begin, int64_t end, Hit hit) {
    const int lane = threadIdx.x % kWarp;
    for (int64_t first = 0; first < count; first += kWarp) {
        const int64_t id = first + lane < count ? ids[first + lane] : -1;
        for (unsigned found = __ballot_sync(kAllLanes, id >= begin && id < end); found; found &= found - 1) {
            const int from = __ffs(static_cast<int>(found)) - 1;
            hit(static_cast<int>(__shfl_sync(kAllLanes, id, from) - begin), first + from);
        }
    }
}

// A chunk of a row in a warp's registers, with every change of its logits.
template <typename T, typename Real, int bytes>
__device__ void take(const PrismSample& a, int64_t r, int64_t chunk, Real (&v)[kPer]) {
    constexpr int wide = bytes / sizeof(T), loads = kPer / wide;
    const int lane = threadIdx.x % kWarp;
    const int64_t begin = chunk * kChunk, end = smaller(begin + kChunk, a.vocabulary);
    const T* row = static_cast<const T*>(a.logits) + a.rows[r] * a.stride + begin;
    Pack<T, bytes> raw[loads];
#pragma unroll
    for (int j = 0; j < loads; ++j) {
        const int first = (j * static_cast<int>(kWarp) + lane) * wide;
        if (begin + first + wide <= end) {
            raw[j] = *reinterpret_cast<const Pack<T, bytes>*>(row + first);
        } else {
            for (int e = 0; e < wide; ++e) {
                if (begin + first + e < end) raw[j].x[e] = row[first + e];
            }
        }
    }
#pragma unroll
    for (int k = 0; k < kPer; ++k) {
        const bool inside = begin + place<T, bytes>(k, lane) < end;
        v[k] = inside ? cleaned<Real>(to_real(raw[k / wide].x[k % wide])) : -Limits<Real>::infinity;
    }
    const auto change = [&](int at, auto to) {
#pragma unroll
        for (int k = 0; k < kPer; ++k) v[k] = place<T, bytes>(k, lane) == at ? to(v[k]) : v[k];
    };
    in_chunk(a.bias_ids, a.biased, begin, end, [&](int at, int64_t number) {
        const Real more = static_cast<Real>(a.bias[number]);
        change(at, [=](Real x) { return cleaned<Real>(x + more); });
    });
    if (a.seen) {
        uint64_t mine = 0;  // an id that was seen twice is penalised once
        in_chunk(a.seen + a.seen_of[r] * a.seen_width, a.seen_width, begin, end, [&](int at, int64_t) {
            if (at / wide % static_cast<int>(kWarp) == lane) {
                mine |= uint64_t{1} << (at / wide / static_cast<int>(kWarp) * wide + at % wide);
            }
        });
        const Real penalty = static_cast<Real>(a.penalty);
        if (__ballot_sync(kAllLanes, mine != 0)) {
#pragma unroll
            for (int k = 0; k < kPer; ++k) v[k] = mine >> k & 1 ? penalised(v[k], penalty) : v[k];
        }
    }
    in_chunk(a.suppress, a.suppressed, begin, end,
             [&](int at, int64_t) { change(at, [](Real) { return -Limits<Real>::infinity; }); });
}

template <typename T, typename Real, int bytes>
__global__ void scan_kernel(PrismSample a) {
    const int64_t chunks = (a.vocabulary + kChunk - 1) / kChunk;
    const int64_t job = int64_t{blockIdx.x} * (blockDim.x / kWarp) + threadIdx.x / kWarp;
    if (job >= a.count * chunks) return;  // a whole warp: nothing here waits for a block
    const int64_t r = job / chunks;
    constexpr Real none = -Limits<Real>::infinity;
    Stat<Real> s = {none, none, 0, 0, 0};
    if (a.rows[r] >= 0) {
        Real v[kPer];
        take<T, Real, bytes>(a, r, job % chunks, v);
#pragma unroll
        for (int k = 0; k < kPer; ++k) s.top = larger(s.top, v[k]);
        s.top = warp_reduce(s.top, larger<Real>);
        const Scales<Real> scale(a);
        if (s.top > none) {
#pragma unroll
            for (int k = 0; k < kPer; ++k) s.hot += exponential((v[k] - s.top) * scale.hot);
            if (a.untempered && scale.hot != scale.plain) {
#pragma unroll
                for (int k = 0; k < kPer; ++k) s.plain += exponential((v[k] - s.top) * scale.plain);
            } else {
                s.plain = s.hot;
            }
        }
        s.hot = warp_reduce(s.hot, added<Real>);
        s.plain = warp_reduce(s.plain, added<Real>);
        if ((a.margin || a.entropy) && s.top > none) {
            int equal = 0;
#pragma unroll
            for (int k = 0; k < kPer; ++k) {
                equal += v[k] == s.top;
                s.second = larger(s.second, v[k] < s.top ? v[k] : none);
                const Real t = (v[k] - s.top) * scale.plain, w = exponential(t);
                s.bits += w > 0 ? w * t : Real{0};
            }
            s.second = warp_reduce(s.second, larger<Real>);
            s.bits = warp_reduce(s.bits, added<Real>);
            if (warp_reduce(equal, added<int>) > 1) s.second = s.top;
        }
    }
    if (threadIdx.x % kWarp == 0) static_cast<Stat<Real>*>(a.scratch)[job] = s;
}

struct Crossing {
    int at;         // the first cell whose sum from the front exceeds the limit; the number of cells if none
    double before;  // what the cells before it hold
};

// One warp looks, all threads learn. cell(i) >= 0, cells a multiple of the warp or padded with 0.
template <typename Cell>
__device__ Crossing crossing(int cells, double before, double limit, Cell cell) {
    __shared__ Crossing found;
    if (threadIdx.x < kWarp) {
        const int lane = threadIdx.x, each = (cells + kWarp - 1) / kWarp, first = lane * each;
        const int stop = smaller(first + each, cells);
        double sum = 0;
        for (int i = first; i < stop; ++i) sum += cell(i);
        double until = sum;
        for (unsigned offset = 1; offset < kWarp; offset *= 2) {
            const double left = __shfl_up_sync(kAllLanes, until, offset);
            if (static_cast<unsigned>(lane) >= offset) until += left;
        }
        const unsigned over = __ballot_sync(kAllLanes, before + until > limit);
        if (over ? lane == __ffs(static_cast<int>(over)) - 1 : lane == static_cast<int>(kWarp) - 1) {
            double at = before + until - sum;
            int i = first;
            for (; i < stop && !(at + cell(i) > limit); ++i) at += cell(i);
            // where rounding lets no cell of this lane cross, its last does
            found = {over ? smaller(i, stop - 1) : cells, at};
        }
    }
    __syncthreads();
    const Crossing result = found;
    __syncthreads();
    return result;
}

template <typename T, typename Real>
struct Row {
    using Key = typename Limits<Real>::Key;
    static constexpr Real none = -Limits<Real>::infinity;

    const PrismSample& a;
    const int64_t r, n, chunks;
    const Stat<Real>* stats;
    const Scales<Real> scale;
    Real top;
    double *kept_mass, *kept_bits;  // of every chunk, relative to the row's top
    Real* chunk;                    // the one that is in shared memory
    unsigned* marks;                // a bit for each of its logits

    // The largest logit has the lowest key; no logit's key is all ones.
    __device__ static Key key(Real x) { return ~order_key<Key, Real>(x, Limits<Real>::infinity); }
    __device__ static Real logit_of(Key key) {  // of whom it is the key
        constexpr Key sign = Key{1} << (8 * sizeof(Key) - 1);
        const Key ordered = ~key, bits = ordered & sign ? ordered ^ sign : ~ordered;
        Real x;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    __device__ Real weight(Real x) const { return exponential((x - top) * scale.hot); }
    __device__ double lift(int64_t c, Real by) const { return exp(double(stats[c].top - top) * double(by)); }

    // A chunk into shared memory, with every change of its logits, by the whole block.
    __device__ void fetch(int64_t c) const {
        const int64_t begin = c * kChunk;
        const int size = static_cast<int>(smaller<int64_t>(kChunk, n - begin));
        const T* from = static_cast<const T*>(a.logits) + a.rows[r] * a.stride + begin;
        constexpr int wide = 16 / sizeof(T);
        const int whole = reinterpret_cast<uintptr_t>(from) % 16 == 0 ? size / wide * wide : 0;
        __syncthreads();
        for (int i = threadIdx.x * wide; i < whole; i += blockDim.x * wide) {
            const Pack<T, 16> raw = *reinterpret_cast<const Pack<T, 16>*>(from + i);
#pragma unroll
            for (int e = 0; e < wide; ++e) chunk[i + e] = cleaned<Real>(to_real(raw.x[e]));
        }
        for (int i = whole + threadIdx.x; i < kChunk; i += blockDim.x) {
            chunk[i] = i < size ? cleaned<Real>(to_real(from[i])) : none;
        }
        __syncthreads();
        const auto each = [&](const int64_t* ids, int64_t count, auto change) {
            for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
                if (ids[i] >= begin && ids[i] < begin + size) change(static_cast<int>(ids[i] - begin), i);
            }
            __syncthreads();
        };
        if (a.biased) {
            each(a.bias_ids, a.biased, [&](int at, int64_t number) {
                chunk[at] = cleaned<Real>(chunk[at] + static_cast<Real>(a.bias[number]));
            });
        }
        if (a.seen) {  // an id that was seen twice is penalised once
            for (int i = threadIdx.x; i < kChunk / 32; i += blockDim.x) marks[i] = 0;
            __syncthreads();
            each(a.seen + a.seen_of[r] * a.seen_width, a.seen_width,
                 [&](int at, int64_t) { atomicOr(&marks[at / 32], 1u << (at % 32)); });
            for (int i = threadIdx.x; i < kChunk; i += blockDim.x) {
                if (marks[i / 32] >> (i % 32) & 1) {
                    chunk[i] = penalised(chunk[i], static_cast<Real>(a.penalty));
                }
            }
            __syncthreads();
        }
        if (a.suppressed) each(a.suppress, a.suppressed, [&](int at, int64_t) { chunk[at] = none; });
    }

    // Every chunk that holds a logit of a key below `last`, in their order: one(i, x) for each logit, then done(chunk).
    template <typename One, typename Done>
    __device__ void visit(Key last, One one, Done done) const {
        for (int64_t c = 0; c < chunks; ++c) {
            if (stats[c].top == none || key(stats[c].top) >= last) continue;
            fetch(c);
            for (int i = threadIdx.x; i < kChunk; i += blockDim.x) {
                if (chunk[i] != none) one(c * kChunk + i, chunk[i]);
            }
            done(c);
        }
        __syncthreads();
    }
};

template <typename Real>
struct Edge {
    Cut<Real> cut;
    double mass;    // what it keeps
    int64_t count;  // how many
    bool found;     // false: all of them together stay within the limit
};

template <typename Key>
struct Candidate {
    Key key;
    int32_t id;
    __device__ bool after(const Candidate& o) const { return key > o.key || (key == o.key && id > o.id); }
};

// Where the weight (or number) of the largest logits first exceeds the limit. No logit with a key of `last` or more can
// be it. Fills kept_mass and kept_bits of what stays.
template <typename R, typename Real, typename Key>
__device__ Edge<Real> edge_of(const R& row, Key last, bool by_count, double limit, bool inclusive) {
    __shared__ unsigned long long weights[kBins];
    __shared__ unsigned counts[kBins > kMaxChunks ? kBins : kMaxChunks];
    constexpr int kCandidates = kCandidateBytes / sizeof(Candidate<Key>);
    __shared__ Candidate<Key> list[kCandidates];
    __shared__ unsigned size;
    Key first = R::key(row.top);
    double before = 0;
    int64_t ranked = 0;
    int inside = 0;
    for (bool narrow = false; !narrow;) {
        int shift = 0;
        while (((last - first - 1) >> shift) >= kBins) ++shift;
        for (int i = threadIdx.x; i < kBins; i += blockDim.x) weights[i] = counts[i] = 0;
        __syncthreads();
        row.visit(
            last,
            [&](int64_t, Real x) {
                const Key mine = R::key(x);
                if (mine < first || mine >= last) return;
                const int bin = static_cast<int>((mine - first) >> shift);
                atomicAdd(&counts[bin], 1u);
                atomicAdd(&weights[bin], static_cast<unsigned long long>(double(row.weight(x)) * kFixed + 0.5));
            },
            [](int64_t) {});
        const auto cell = [&](int i) { return by_count ? double(counts[i]) : double(weights[i]) / kFixed; };
        const Crossing at = crossing(kBins, by_count ? double(ranked) : before, limit, cell);
        if (at.at == kBins) return {{R::none, row.n}, 0, 0, false};
        before += double(row_sum<unsigned long long>(at.at, [&](int64_t i) { return weights[i]; })) / kFixed;
        ranked += row_sum<int64_t>(at.at, [&](int64_t i) { return int64_t{counts[i]}; });
        inside = static_cast<int>(counts[at.at]);
        first += static_cast<Key>(at.at) << shift;
        last = smaller<Key>(first + (Key{1} << shift), last);
        narrow = inside <= kCandidates || shift == 0;
        __syncthreads();
    }

    const bool ties = inside > kCandidates;  // of one logit
    if (threadIdx.x == 0) size = 0;
    for (int64_t c = threadIdx.x; c < row.chunks; c += blockDim.x) {
        row.kept_mass[c] = row.kept_bits[c] = 0;
        counts[c] = 0;
    }
    __syncthreads();
    double mass = 0, bits = 0;  // of this thread, in this chunk
    int64_t equal = 0;
    row.visit(
        last,
        [&](int64_t id, Real x) {
            const Key mine = R::key(x);
            if (mine >= last) return;
            const Real t = (x - row.top) * row.scale.hot, w = exponential(t);
            if (mine < first) {
                mass += w;
                bits += w > 0 ? w * t : Real{0};
            } else if (ties) {
                ++equal;
            } else {
                list[atomicAdd(&size, 1u)] = {mine, static_cast<int32_t>(id)};
            }
        },
        [&](int64_t c) {
            mass = block_reduce(mass, added<double>);
            bits = block_reduce(bits, added<double>);
            equal = block_reduce(equal, added<int64_t>);
            if (threadIdx.x == 0) {
                row.kept_mass[c] = mass;
                row.kept_bits[c] = bits;
                counts[c] = static_cast<unsigned>(equal);
            }
            mass = bits = 0;
            equal = 0;
        });

    Cut<Real> cut;
    if (ties) {
        cut.value = R::logit_of(first);
        const double w = row.weight(cut.value), t = double(cut.value - row.top) * double(row.scale.hot);
        const double each = by_count ? 1 : w, from = by_count ? double(ranked) : before;
        int64_t stay = static_cast<int64_t>((limit - from) / each);
        stay = smaller<int64_t>(larger<int64_t>(stay, 0), inside - 1);
        if (inclusive || (ranked == 0 && stay == 0)) ++stay;
        const Crossing at =
            crossing(static_cast<int>(row.chunks), 0, double(stay) - 0.5, [&](int c) { return double(counts[c]); });
        row.fetch(at.at);
        if (threadIdx.x == 0) {
            int64_t left = stay - static_cast<int64_t>(at.before), i = 0;
            for (; left > 0; ++i) left -= row.chunk[i] == cut.value;
            list[0].id = static_cast<int32_t>(at.at * int64_t{kChunk} + i);
        }
        __syncthreads();
        cut.end = stay > 0 ? list[0].id : 0;
        for (int64_t c = threadIdx.x; c < row.chunks; c += blockDim.x) {
            const double mine = c < at.at ? counts[c] : c == at.at ? double(stay) - at.before : 0;
            row.kept_mass[c] += mine * w;
            row.kept_bits[c] += w > 0 ? mine * w * t : 0;  // t may be -inf
        }
        __syncthreads();
        return {cut, before + double(stay) * w, ranked + stay, true};
    }

    int padded = 2;
    while (padded < inside) padded *= 2;
    for (int i = inside + threadIdx.x; i < padded; i += blockDim.x) list[i] = {~Key{0}, 0x7FFFFFFF};
    __syncthreads();
    for (int run = 2; run <= padded; run *= 2) {
        for (int apart = run / 2; apart > 0; apart /= 2) {
            for (int i = threadIdx.x; i < padded; i += blockDim.x) {
                const int other = i ^ apart;
                if (other > i && ((i & run) == 0) == list[i].after(list[other])) {
                    const Candidate<Key> swapped = list[i];
                    list[i] = list[other];
                    list[other] = swapped;
                }
            }
            __syncthreads();
        }
    }
    const auto weight = [&](int i) { return double(row.weight(R::logit_of(list[i].key))); };
    const Crossing at =
        crossing(inside, by_count ? double(ranked) : before, limit, [&](int i) { return by_count ? 1.0 : weight(i); });
    const int edge = smaller(at.at, inside - 1);  // where rounding lets none cross, the last does
    const bool keep = inclusive || (ranked == 0 && edge == 0);
    const int stay = edge + (keep ? 1 : 0);
    cut = {R::logit_of(list[edge].key), int64_t{list[edge].id} + (keep ? 1 : 0)};
    const double kept = before + row_sum<double>(stay, [&](int64_t i) { return weight(static_cast<int>(i)); });
    for (int64_t c = threadIdx.x; c < row.chunks; c += blockDim.x) {
        for (int i = 0; i < stay; ++i) {
            if (list[i].id / kChunk != c) continue;
            const double w = weight(i);
            row.kept_mass[c] += w;
            const double t = double(R::logit_of(list[i].key) - row.top) * double(row.scale.hot);
            row.kept_bits[c] += w > 0 ? w * t : 0;
        }
    }
    __syncthreads();
    return {cut, kept, ranked + stay, true};
}

// What top_k, top_p and min_p keep together; each looks at the whole distribution.
template <typename R, typename Real>
__device__ Edge<Real> truncated(const R& row, double total) {
    using Key = typename Limits<Real>::Key;
    const PrismSample& a = row.a;
    const Key all = R::key(-Limits<Real>::largest) + 1;
    const double limit = a.top_p * total;
    Edge<Real> edge = {{R::none, row.n}, total, row.n, false};
    if (a.top_k > 0 && a.top_k < row.n) edge = edge_of<R, Real, Key>(row, all, true, double(a.top_k), false);
    if (a.top_p < 1 && !(edge.found && edge.mass <= limit)) {
        // what is so light that even all together it could not be what the limit leaves out is never the edge
        const double least = double(row.top) + (log((total - limit) / double(row.n)) - 0.01) / double(row.scale.hot);
        const Real floor = static_cast<Real>(larger<double>(least, -Limits<Real>::largest));
        const Edge<Real> other = edge_of<R, Real, Key>(row, R::key(floor) + 1, false, limit, a.inclusive);
        if (other.found) edge = other;
    }
    if (!(a.min_p > 0)) return edge;
    const double below = log(a.min_p) * (a.temperature > 0 ? a.temperature : 1);
    if (edge.found && double(edge.cut.value) - double(row.top) >= below) return edge;
    for (int64_t c = threadIdx.x; c < row.chunks; c += blockDim.x) row.kept_mass[c] = row.kept_bits[c] = 0;
    __syncthreads();
    const auto likely = [&](Real x) { return double(x) - double(row.top) >= below; };
    double mass = 0, bits = 0;  // of this thread, in this chunk
    int64_t number = 0;         // of this thread
    const Key floor =
        R::key(static_cast<Real>(larger(double(row.top) + below - 1e-3 * fabs(below), double(-Limits<Real>::largest))));
    row.visit(
        floor + 1,
        [&](int64_t, Real x) {
            if (!likely(x)) return;
            const Real t = (x - row.top) * row.scale.hot, w = exponential(t);
            mass += w;
            bits += w > 0 ? w * t : Real{0};
            ++number;
        },
        [&](int64_t c) {
            mass = block_reduce(mass, added<double>);
            bits = block_reduce(bits, added<double>);
            if (threadIdx.x == 0) {
                row.kept_mass[c] = mass;
                row.kept_bits[c] = bits;
            }
            mass = bits = 0;
        });
    // the smallest number that is still likely enough, so that Cut can say it: the top is, what has key `all` is not
    Key least = R::key(row.top), beyond = all;
    while (beyond - least > 1) {
        const Key middle = least + (beyond - least) / 2;
        (likely(R::logit_of(middle)) ? least : beyond) = middle;
    }
    const Real value = R::logit_of(least);
    const double kept = row_sum<double>(row.chunks, [&](int64_t c) { return row.kept_mass[c]; });
    return {{value, row.n}, kept, block_reduce(number, added<int64_t>), true};
}

template <typename T, typename Real>
__global__ void finish_kernel(PrismSample a) {
    __shared__ double kept_mass[kMaxChunks], kept_bits[kMaxChunks];
    alignas(16) __shared__ Real chunk[kChunk];
    __shared__ unsigned marks[kChunk / 32];
    using R = Row<T, Real>;
    constexpr Real none = R::none;
    const int64_t r = blockIdx.x, n = a.vocabulary, chunks = (n + kChunk - 1) / kChunk;
    const bool leader = threadIdx.x == 0;
    R row = {a,
             r,
             n,
             chunks,
             static_cast<const Stat<Real>*>(a.scratch) + r * chunks,
             Scales<Real>(a),
             none,
             kept_mass,
             kept_bits,
             chunk,
             marks};
    const Stat<Real>* stats = row.stats;
    row.top = row_max(chunks, none, [&](int64_t c) { return stats[c].top; });
    if (row.top == none) {
        if (leader) {
            a.token[r] = -1;
            for (float* figure : {a.prob, a.margin, a.entropy, a.given_prob}) {
                if (figure) figure[r] = 0;
            }
        }
        return;
    }
    const auto sum = [&](Real Stat<Real>::* part, Real by) {
        return row_sum<double>(
            chunks, [&](int64_t c) { return stats[c].top > none ? double(stats[c].*part) * row.lift(c, by) : 0.0; });
    };
    const double total = sum(&Stat<Real>::hot, row.scale.hot);
    Edge<Real> edge = {{none, n}, total, n, false};
    if (a.top_p < 1 || (a.top_k > 0 && a.top_k < n) || a.min_p > 0) edge = truncated<R, Real>(row, total);
    const auto mass_of = [&](int64_t c) {
        if (edge.found) return kept_mass[c];
        return stats[c].top > none ? double(stats[c].hot) * row.lift(c, row.scale.hot) : 0.0;
    };

    int64_t drawn;  // the chunk
    double left = 0;
    if (a.temperature > 0) {
        const double u = uniform(a.seed, a.request[r], a.position[r], a.step[r], a.stream, 0);
        const double mass = row_sum<double>(chunks, mass_of);
        const Crossing at = crossing(static_cast<int>(chunks), 0, u * mass, [&](int c) { return mass_of(c); });
        left = u * mass - at.before;
        drawn = at.at;
        if (drawn == chunks || !(mass_of(drawn) > 0)) {  // rounding carried past the last one with any weight
            drawn = row_max<int64_t>(chunks, 0, [&](int64_t c) { return mass_of(c) > 0 ? c : 0; });
            left = Limits<double>::infinity;
        }
    } else {
        drawn = chunks - 1 - row_max<int64_t>(chunks, 0, [&](int64_t c) {
                    return stats[c].top == row.top ? chunks - 1 - c : int64_t{0};
                });
    }
    row.fetch(drawn);
    const int64_t begin = drawn * kChunk;
    int64_t token;
    if (a.temperature > 0) {
        left /= row.lift(drawn, row.scale.hot);
        const Real own = stats[drawn].top;
        const auto weight = [&](int i) {
            const Real x = chunk[i];
            return edge.cut.keeps(x, begin + i) ? double(exponential((x - own) * row.scale.hot)) : 0.0;
        };
        const Crossing at = crossing(kChunk, 0, left, weight);
        token = at.at;
        if (token == kChunk || !(weight(static_cast<int>(token)) > 0)) {
            token = row_max<int64_t>(kChunk, 0, [&](int64_t i) { return weight(static_cast<int>(i)) > 0 ? i : 0; });
        }
    } else {
        token = kChunk - 1 - row_max<int64_t>(kChunk, 0, [&](int64_t i) {
                    return chunk[i] == row.top ? kChunk - 1 - i : int64_t{0};
                });
    }
    const Real x = chunk[token];
    token += begin;
    const bool cut_shown = edge.found && !a.untempered;
    const double mass = cut_shown ? edge.mass : sum(&Stat<Real>::plain, row.scale.plain);
    const auto prob = [&](Real logit) {
        const double p = exp(double(logit - row.top) * double(row.scale.plain)) / mass;
        return static_cast<float>(p < 1 ? p : 1);
    };
    if (leader) {
        a.token[r] = token;
        a.prob[r] = prob(x);
    }
    if (a.margin) {
        const Real beside = row_max<Real>(
            chunks, none, [&](int64_t c) { return stats[c].top == row.top ? stats[c].second : stats[c].top; });
        const int64_t leading = row_sum<int64_t>(chunks, [&](int64_t c) { return int64_t{stats[c].top == row.top}; });
        const Real second = leading > 1 ? row.top : beside;
        const bool there = second > none && (!cut_shown || edge.count > 1);
        if (leader) a.margin[r] = prob(row.top) - (there ? prob(second) : 0);
    }
    if (a.entropy) {
        const double bits = row_sum<double>(chunks, [&](int64_t c) {
            if (cut_shown) return kept_bits[c];
            if (stats[c].top == none) return 0.0;
            const double off = double(stats[c].top - row.top) * double(row.scale.plain);
            return (double(stats[c].bits) + off * double(stats[c].plain)) * exp(off);
        });
        if (leader) a.entropy[r] = static_cast<float>(larger(log(mass) - bits / mass, 0.0));
    }
    if (a.given) {
        const int64_t given = a.given[r];
        const bool inside = given >= 0 && given < n;
        __syncthreads();
        if (inside) row.fetch(given / kChunk);
        if (leader) {
            const Real logit = inside ? chunk[given % kChunk] : none;
            const bool stays = logit > none && (!cut_shown || edge.cut.keeps(logit, given));
            a.given_prob[r] = stays ? prob(logit) : 0;
        }
    }
}

template <typename T, typename Real, int bytes>
void launch(const PrismSample& a, int64_t threads, cudaStream_t stream) {
    const int64_t chunks = (a.vocabulary + kChunk - 1) / kChunk, warps = threads / kWarp;
    if (chunks > 0) {
        PRISM_LAUNCH((scan_kernel<T, Real, bytes>), (a.count * chunks + warps - 1) / warps, threads, stream, a);
    }
    PRISM_LAUNCH((finish_kernel<T, Real>), a.count, threads, stream, a);
}

// By the widest load that every row allows.
template <typename T, typename Real>
void aligned(const PrismSample& a, int64_t threads, cudaStream_t stream) {
    const uint64_t where = reinterpret_cast<uintptr_t>(a.logits) | (static_cast<uint64_t>(a.stride) * sizeof(T));
    if (where % 16 == 0) {
        launch<T, Real, 16>(a, threads, stream);
    } else {
        launch<T, Real, static_cast<int>(sizeof(T))>(a, threads, stream);
    }
}

}  // namespace
}  // namespace prism

int64_t prism_cuda_sample_scratch(int64_t count, int64_t vocabulary) {
    return count * ((vocabulary + prism::kChunk - 1) / prism::kChunk) * int64_t{sizeof(prism::Stat<double>)};
}

int prism_cuda_sample(const PrismSample* arguments, int64_t threads, void* stream) {
    using namespace prism;
    const PrismSample& a = *arguments;
    if (!whole_warps(threads) || a.vocabulary > int64_t{kChunk} * kMaxChunks) return kInvalid;
    if (a.count == 0) return 0;
    const auto on = static_cast<cudaStream_t>(stream);
    switch (a.dtype) {
        case kPrismFloat:
            aligned<float, float>(a, threads, on);
            break;
        case kPrismDouble:
            aligned<double, double>(a, threads, on);
            break;
        case kPrismBFloat16:
            aligned<BFloat16Bits, float>(a, threads, on);
            break;
        case kPrismHalf:
            aligned<HalfBits, float>(a, threads, on);
            break;
        default:
            return kInvalid;
    }
    return cudaGetLastError();
}
