// Selection, one block a row: every search (the k-th score, ties by index) narrows an interval of keys eight times a
// pass by sums over the row, so that a block reduction is the only primitive and the result does not depend on
// scheduling: 11 passes for a 32-bit key, 6 for the index. And the uniform numbers.

#include "block.cuh"

namespace prism {
namespace {

constexpr int kWays = 8;

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
            const T sum = block_reduce(below[way], added<T>);
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
