// One block a row. Every search (the k-th score, the edge of a nucleus, ties by index) narrows an interval of keys
// eight times a pass by sums over the row, so that a block reduction is the only primitive and the result does not
// depend on scheduling: 11 passes for a 32-bit key, 6 for the index.

#include "../common/convert.h"
#include "../common/order.h"
#include "../common/philox.h"
#include "kernels.h"

#ifdef PRISM_SIMT
#include "simt.h"
#else
#include <cuda_runtime.h>
#define PRISM_LAUNCH(kernel, blocks, threads, stream, ...) \
    kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, stream>>>(__VA_ARGS__)
#endif

namespace prism {
namespace {

constexpr int kChunk = 2048, kMaxChunks = 1024, kMaxThreads = 1024, kWays = 8;
constexpr unsigned kWarp = 32, kAllLanes = 0xFFFFFFFFu;

template <typename T>
struct Limits;
template <>
struct Limits<float> {
    using Key = uint32_t;
    static constexpr float largest = 3.4028234663852886e38f, infinity = __builtin_huge_valf();
};
template <>
struct Limits<double> {
    using Key = uint64_t;
    static constexpr double largest = 1.7976931348623157e308, infinity = __builtin_huge_val();
};

__device__ inline float exponential(float x) {
    return expf(x);
}
__device__ inline double exponential(double x) {
    return exp(x);
}

template <typename T>
__device__ T larger(T a, T b) {
    return a > b ? a : b;
}

// The same value in every thread; partial results meet in the order of the warps.
template <typename T, typename Join>
__device__ T block_reduce(T value, Join join) {
    __shared__ T partial[kMaxThreads / kWarp];
    for (unsigned offset = kWarp / 2; offset > 0; offset /= 2) {
        value = join(value, __shfl_down_sync(kAllLanes, value, offset));
    }
    if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = value;
    __syncthreads();
    T result = partial[0];
    for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) result = join(result, partial[warp]);
    __syncthreads();
    return result;
}

template <typename T, typename Term>
__device__ T row_sum(int64_t n, Term term) {
    T sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += term(i);
    return block_reduce(sum, [](T a, T b) { return a + b; });
}

template <typename T, typename Term>
__device__ T row_max(int64_t n, T least, Term term) {
    T most = least;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) most = larger(most, term(i));
    return block_reduce(most, larger<T>);
}

template <typename Key, typename T>
struct Keyed {
    Key key;
    T weight;
};

// The least key in (0, high] such that what is below it has a weight that reached() accepts, and the weight below the
// key before. At high it is accepted; below 0 there is nothing.
template <typename Key, typename T, typename Entry, typename Reached>
__device__ Keyed<Key, T> search(Key high, int64_t n, Entry entry, Reached reached) {
    Key low = 0;
    T before = 0;
    while (high - low > 1) {
        const Key range = high - low, width = (range - 1) / kWays + 1;
        T below[kWays - 1] = {};
        for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
            const Keyed<Key, T> e = entry(i);
            for (int way = 0; way < kWays - 1; ++way) {
                below[way] += e.key < low + width * (way + 1) ? e.weight : T{0};
            }
        }
        const Key start = low;
        for (int way = 0; way < kWays - 1 && width * (way + 1) < range; ++way) {
            const T sum = block_reduce(below[way], [](T a, T b) { return a + b; });
            if (reached(sum)) {
                high = start + width * (way + 1);
                break;
            }
            low = start + width * (way + 1);
            before = sum;
        }
    }
    return {high, before};
}

__global__ void uniform_kernel(int64_t seed, const int64_t* request, const int64_t* position, const int64_t* step,
                               int64_t stream, int64_t draw, int64_t count, double* out) {
    const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (i < count) out[i] = uniform(seed, request[i], position[i], step[i], stream, draw);
}

template <typename T, typename Token>
__global__ void select_kernel(PrismSelect a) {
    using Real = decltype(to_real(T{}));
    using Key = typename Limits<Real>::Key;
    const int64_t b = blockIdx.x, n = a.length;
    const T* row = static_cast<const T*>(a.scores) + b * a.down;
    const bool* eligible = a.eligible + b * n;
    const Token* fill = a.fill ? static_cast<const Token*>(a.fill) + b * n : nullptr;
    const Key none = ~Key{0}, flip = a.highest ? none : Key{0};
    const auto key = [=](int64_t i) -> Key {
        if (!eligible[i] || (fill && fill[i] < 0)) return none;
        return order_key<Key, Real>(to_real(row[i * a.across]), Limits<Real>::infinity) ^ flip;
    };
    const int64_t total = row_sum<int64_t>(n, [=](int64_t i) { return int64_t{key(i) < none}; });
    const int64_t count = a.counts[b] < total ? a.counts[b] : total;
    Key last = 0;      // the count-th lowest key
    int64_t ties = 0;  // and up to which index it is chosen
    if (count > 0) {
        const auto counted = [=](int64_t i) { return Keyed<Key, int64_t>{key(i), 1}; };
        const auto kth = search<Key, int64_t>(none, n, counted, [=](int64_t below) { return below >= count; });
        last = kth.key - 1;
        const int64_t wanted = count - kth.weight;
        const auto tied = [=](int64_t i) { return Keyed<int64_t, int64_t>{i, key(i) == last}; };
        ties = search<int64_t, int64_t>(n, n, tied, [=](int64_t below) { return below >= wanted; }).key;
    }
    Token* tokens = a.tokens ? static_cast<Token*>(a.tokens) + b * a.token_down : nullptr;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        const Key k = key(i);
        const bool chosen = count > 0 && (k < last || (k == last && i < ties));
        a.chosen[b * n + i] = chosen;
        if (chosen && tokens) tokens[i * a.token_across] = fill ? fill[i] : static_cast<Token>(a.mask_id);
    }
}

template <typename Real>
struct Cut {  // kept: x > value, and x == value at an index below end
    Real value;
    int64_t end;
    __device__ bool keeps(Real x, int64_t i) const { return x > value || (x == value && i < end); }
};

// What is left of the logits where the weight of the largest first exceeds the limit.
template <typename Real, typename Logit, typename Weight>
__device__ Cut<Real> crossing(int64_t n, Logit logit, Weight weight, double limit, bool inclusive) {
    using Key = typename Limits<Real>::Key;
    // The largest logit has the lowest key. No key is all ones: that would be the order key of a NaN.
    const auto key = [=](int64_t i) -> Key { return ~order_key<Key, Real>(logit(i), Limits<Real>::infinity); };
    const auto crosses = [=](double sum) { return sum > limit; };
    if (!crosses(row_sum<double>(n, [=](int64_t i) { return static_cast<double>(weight(i)); }))) {
        return {-Limits<Real>::infinity, n};
    }
    const auto weighed = [=](int64_t i) { return Keyed<Key, double>{key(i), static_cast<double>(weight(i))}; };
    const auto edge = search<Key, double>(~Key{0}, n, weighed, crosses);
    const double before = edge.weight;
    const auto tied = [=](int64_t i) {
        return Keyed<int64_t, double>{i, key(i) == edge.key - 1 ? static_cast<double>(weight(i)) : 0.0};
    };
    const int64_t at = search<int64_t, double>(n, n, tied, [=](double sum) { return before + sum > limit; }).key;
    const Real value = logit(at - 1);
    const bool first = before == 0 && weight(at - 1) > limit;  // the largest of all always stays
    return {value, inclusive || first ? at : at - 1};
}

// The first index whose cumulative weight exceeds u times the total. Warps sum chunks, then threads the pieces of one.
template <typename Weight>
__device__ int64_t draw(int64_t n, Weight weight, double u) {
    __shared__ double sums[kMaxChunks], pieces[kMaxThreads];
    __shared__ int64_t found;
    __shared__ double target;
    const int64_t chunks = (n + kChunk - 1) / kChunk;
    for (int64_t c = threadIdx.x / kWarp; c < chunks; c += blockDim.x / kWarp) {
        const int64_t end = (c + 1) * kChunk < n ? (c + 1) * kChunk : n;
        double sum = 0;
        for (int64_t i = c * kChunk + threadIdx.x % kWarp; i < end; i += kWarp) sum += weight(i);
        for (unsigned offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_down_sync(kAllLanes, sum, offset);
        if (threadIdx.x % kWarp == 0) sums[c] = sum;
    }
    __syncthreads();
    // Walks to the cell of `cells` that holds `left`, or, where rounding carries past all, to the last with any weight.
    const auto walk = [](const double* cells, int64_t count, double* left) {
        int64_t cell = 0;
        for (int64_t i = 0; i < count; ++i) {
            if (!(cells[i] > 0)) continue;
            cell = i;
            if (*left < cells[i]) break;
            *left -= cells[i];
        }
        return cell;
    };
    if (threadIdx.x == 0) {
        double total = 0;
        for (int64_t c = 0; c < chunks; ++c) total += sums[c];
        target = u * total;
        found = walk(sums, chunks, &target);
    }
    __syncthreads();
    const int64_t begin = found * kChunk, stop = begin + kChunk < n ? begin + kChunk : n;
    const int64_t width = (kChunk + blockDim.x - 1) / blockDim.x, first = begin + threadIdx.x * width;
    double piece = 0;
    for (int64_t i = first; i < first + width && i < stop; ++i) piece += weight(i);
    pieces[threadIdx.x] = piece;
    __syncthreads();
    if (threadIdx.x == 0) {
        const int64_t start = begin + walk(pieces, blockDim.x, &target) * width;
        int64_t last = start;
        for (int64_t i = start; i < start + width && i < stop; ++i) {
            const double w = weight(i);
            if (!(w > 0)) continue;
            last = i;
            if (target < w) break;
            target -= w;
        }
        found = last;
    }
    __syncthreads();
    const int64_t result = found;
    __syncthreads();
    return result;
}

template <typename T, typename Real>
__global__ void sample_kernel(PrismSample a) {
    const int64_t n = a.vocabulary, r = blockIdx.x, row_index = a.rows[r];
    const bool leader = threadIdx.x == 0;
    const Real none = -Limits<Real>::infinity;
    const T* row = static_cast<const T*>(a.logits) + (row_index < 0 ? 0 : row_index) * a.stride;
    const auto logit = [=](int64_t i) -> Real {
        for (int64_t s = 0; s < a.suppressed; ++s) {
            if (a.suppress[s] == i) return none;
        }
        const Real x = to_real(row[i]);
        return x == x ? (x < Limits<Real>::largest ? x : Limits<Real>::largest) : none;
    };
    const Real top = row_index < 0 ? none : row_max(n, none, logit);
    if (top == none) {
        if (leader) {
            a.token[r] = -1;
            for (float* figure : {a.prob, a.margin, a.entropy, a.given_prob}) {
                if (figure) figure[r] = 0;
            }
        }
        return;
    }
    const double heat = a.temperature > 0 ? a.temperature : 1;
    const double inverse = 1 / heat < Limits<Real>::largest ? 1 / heat : Limits<Real>::largest;
    const Real cold = static_cast<Real>(inverse);
    const auto hot = [=](int64_t i) -> Real { return exponential((logit(i) - top) * cold); };

    Cut<Real> cut = {none, n};
    if (a.top_p < 1) {
        const double total = row_sum<double>(n, [=](int64_t i) { return static_cast<double>(hot(i)); });
        cut = crossing<Real>(n, logit, hot, a.top_p * total, a.inclusive);
    }
    if (a.top_k > 0 && a.top_k < n) {
        const auto one = [=](int64_t i) { return Real(logit(i) > none ? 1 : 0); };
        const Cut<Real> other = crossing<Real>(n, logit, one, static_cast<double>(a.top_k), false);
        if (other.value > cut.value || (other.value == cut.value && other.end < cut.end)) cut = other;
    }
    const auto kept = [=](int64_t i) -> Real { return cut.keeps(logit(i), i) ? hot(i) : Real{0}; };
    const auto shown = [=](int64_t i) -> Real { return a.untempered ? exponential(logit(i) - top) : kept(i); };

    const int64_t greedy = -row_max<int64_t>(n, -n, [=](int64_t i) { return logit(i) == top ? -i : -n; });
    int64_t token = greedy;
    if (a.temperature > 0) {
        token = draw(n, kept, uniform(a.seed, a.request[r], a.position[r], a.step[r], a.stream, 0));
    }
    const double mass = row_sum<double>(n, [=](int64_t i) { return static_cast<double>(shown(i)); });
    const auto prob = [=](Real weight) {
        const double p = weight / mass;
        return static_cast<float>(p < 1 ? p : 1);
    };
    if (leader) {
        a.token[r] = token;
        a.prob[r] = prob(shown(token));
    }
    if (a.margin) {
        const Real second = row_max<Real>(n, 0, [=](int64_t i) { return i == greedy ? Real{0} : shown(i); });
        if (leader) a.margin[r] = prob(shown(greedy)) - prob(second);
    }
    if (a.entropy) {
        const double spread = row_sum<double>(n, [=](int64_t i) {
            const double p = shown(i) / mass;
            return p > 0 ? -p * log(p) : 0.0;
        });
        if (leader) a.entropy[r] = static_cast<float>(spread);
    }
    if (a.given && leader) {
        const int64_t given = a.given[r];
        a.given_prob[r] = given >= 0 && given < n ? prob(shown(given)) : 0;
    }
}

constexpr int kInvalid = 1;  // cudaErrorInvalidValue

bool whole_warps(int64_t threads) {
    return threads >= kWarp && threads <= kMaxThreads && threads % kWarp == 0;
}

template <typename T>
void select_tokens(const PrismSelect& a, int64_t threads, cudaStream_t stream) {
    if (a.narrow) {
        PRISM_LAUNCH((select_kernel<T, int32_t>), a.batch, threads, stream, a);
    } else {
        PRISM_LAUNCH((select_kernel<T, int64_t>), a.batch, threads, stream, a);
    }
}

}  // namespace
}  // namespace prism

int prism_cuda_uniform(int64_t seed, const int64_t* request, const int64_t* position, const int64_t* step,
                       int64_t stream_word, int64_t draw, int64_t count, double* out, void* stream) {
    constexpr int64_t threads = 256;
    if (count == 0) return 0;
    PRISM_LAUNCH(prism::uniform_kernel, (count + threads - 1) / threads, threads, static_cast<cudaStream_t>(stream),
                 seed, request, position, step, stream_word, draw, count, out);
    return cudaGetLastError();
}

int prism_cuda_select(const PrismSelect* arguments, int64_t threads, void* stream) {
    using namespace prism;
    const PrismSelect& a = *arguments;
    if (!whole_warps(threads)) return kInvalid;
    if (a.batch == 0) return 0;
    const auto on = static_cast<cudaStream_t>(stream);
    switch (a.dtype) {
        case kPrismFloat:
            select_tokens<float>(a, threads, on);
            break;
        case kPrismDouble:
            select_tokens<double>(a, threads, on);
            break;
        case kPrismBFloat16:
            select_tokens<BFloat16Bits>(a, threads, on);
            break;
        case kPrismHalf:
            select_tokens<HalfBits>(a, threads, on);
            break;
        default:
            return kInvalid;
    }
    return cudaGetLastError();
}

int prism_cuda_sample(const PrismSample* arguments, int64_t threads, void* stream) {
    using namespace prism;
    const PrismSample& a = *arguments;
    if (!whole_warps(threads) || a.vocabulary > int64_t{kChunk} * kMaxChunks) return kInvalid;
    if (a.count == 0) return 0;
    const auto on = static_cast<cudaStream_t>(stream);
    switch (a.dtype) {
        case kPrismFloat:
            PRISM_LAUNCH((sample_kernel<float, float>), a.count, threads, on, a);
            break;
        case kPrismDouble:
            PRISM_LAUNCH((sample_kernel<double, double>), a.count, threads, on, a);
            break;
        case kPrismBFloat16:
            PRISM_LAUNCH((sample_kernel<BFloat16Bits, float>), a.count, threads, on, a);
            break;
        case kPrismHalf:
            PRISM_LAUNCH((sample_kernel<HalfBits, float>), a.count, threads, on, a);
            break;
        default:
            return kInvalid;
    }
    return cudaGetLastError();
}
