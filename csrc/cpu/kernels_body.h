// Included once by every kernels_*.cpp, inside its namespace and under its target. It uses no library template: a
// function that the linker could share between instruction sets would be compiled for the largest one.

namespace {

constexpr int W = PRISM_LANES;  // not from __AVX512F__, which a target pragma defines too late before GCC 13

typedef float V __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint16_t H __attribute__((vector_size(2 * W)));
typedef uint8_t B __attribute__((vector_size(W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));

constexpr float kInfinity = __builtin_inff();
constexpr int kGroup = 4;  // vectors that are worked on side by side: alone an exponential waits for its own latency

inline V all(float x) {
    return x - V{};
}

#if PRISM_LANES == 16
inline V fma(V a, V b, V c) {
    return _mm512_fmadd_ps(a, b, c);
}
inline V max(V a, V b) {
    return _mm512_max_ps(a, b);
}  // b where a is NaN
inline V min(V a, V b) {
    return _mm512_min_ps(a, b);
}
inline uint32_t lanes(I mask) {
    return _mm512_movepi32_mask((__m512i)mask);
}
inline uint32_t at_least(V a, V b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
inline float sum(V v) {
    return _mm512_reduce_add_ps(v);
}
inline float largest(V v) {  // of no NaN
    return _mm512_reduce_max_ps(v);
}
#elif PRISM_LANES == 8
inline V fma(V a, V b, V c) {
    return _mm256_fmadd_ps(a, b, c);
}
inline V max(V a, V b) {
    return _mm256_max_ps(a, b);
}
inline V min(V a, V b) {
    return _mm256_min_ps(a, b);
}
inline uint32_t lanes(I mask) {
    return uint32_t(_mm256_movemask_ps((V)mask));
}
inline float sum(V v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline float largest(V v) {  // of no NaN
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}
#else
inline V fma(V a, V b, V c) {
#ifdef __FP_FAST_FMAF
    return a * b + c;  // one instruction
#else  // in float the product would be rounded, and a weight no longer 2^(x * scale - shift)
    typedef double D __attribute__((vector_size(8 * W)));
    const D product = __builtin_convertvector(a, D) * __builtin_convertvector(b, D);
    return __builtin_convertvector(product + __builtin_convertvector(c, D), V);
#endif
}
inline V max(V a, V b) {
    return a > b ? a : b;
}
inline V min(V a, V b) {
    return a < b ? a : b;
}
inline uint32_t lanes(I mask) {
    uint32_t bits = 0;
    for (int i = 0; i < W; ++i) bits |= uint32_t(mask[i] != 0) << i;
    return bits;
}
inline float sum(V v) {
    float s = 0;
    for (int i = 0; i < W; ++i) s += v[i];
    return s;
}
inline float largest(V v) {  // of no NaN
    float m = -kInfinity;
    for (int i = 0; i < W; ++i) m = v[i] > m ? v[i] : m;
    return m;
}
#endif

#if PRISM_LANES != 16
inline uint32_t at_least(V a, V b) {
    return lanes(a >= b);
}
#endif

struct BFloat16 {
    uint16_t bits;
};
struct Half {
    uint16_t bits;
};

template <typename T>
inline T unaligned(const void* p) {
    T x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
}

inline V load(const float* p) {
    return unaligned<V>(p);
}
inline V load(const BFloat16* p) {
    return (V)(__builtin_convertvector(unaligned<H>(p), U) << 16);
}
inline V load(const Half* p) {
    const U h = __builtin_convertvector(unaligned<H>(p), U);
    const U magnitude = (h & 0x7FFFu) << 13;
    const U special = (U)((I)magnitude >= 0x7C00 << 13) & 0x7F800000u;  // inf and NaN keep an all-ones exponent
    const U tiny = (U)(__builtin_convertvector((I)(h & 0x3FFu), V) * 0x1p-24f);  // no denormal on the way
    const U small = (U)((I)magnitude < 0x400 << 13);
    return (V)((tiny & small) | ((magnitude + (112u << 23)) & ~small) | special | (h & 0x8000u) << 16);
}

// The next kGroup vectors, in any order of their logits.
template <typename T>
inline void load_group(const T* p, V (&v)[kGroup]) {
#pragma GCC unroll 4
    for (int k = 0; k < kGroup; ++k) v[k] = load(p + k * W);
}
inline void load_group(const BFloat16* p, V (&v)[kGroup]) {  // two in every word: the low one is shifted up
#pragma GCC unroll 2
    for (int k = 0; k < kGroup; k += 2) {
        const U words = unaligned<U>(p + k * W);
        v[k] = (V)(words << 16);
        v[k + 1] = (V)(words & 0xFFFF0000u);
    }
}

inline I count_up(int32_t from) {
    I lane;
    for (int i = 0; i < W; ++i) lane[i] = from + i;
    return lane;
}

inline V together(const V (&v)[kGroup]) {
    return (v[0] + v[1]) + (v[2] + v[3]);
}

// 2^t for t <= 126; 0 for NaN and far below 2^-126.
inline void exp2(const V (&t)[kGroup], V (&out)[kGroup]) {
    V whole[kGroup], f[kGroup], p[kGroup];
    const auto each = [](auto step) {
#pragma GCC unroll 4
        for (int k = 0; k < kGroup; ++k) step(k);
    };
#if PRISM_LANES == 16
    each([&](int k) { f[k] = max(t[k], all(-200.0f)); });
    each([&](int k) { whole[k] = _mm512_roundscale_ps(f[k], 0); });
    each([&](int k) { f[k] -= whole[k]; });
#else
    const V rounder = all(0x1.8p23f);
    each([&](int k) { f[k] = max(t[k], all(-126.0f)); });
    each([&](int k) { whole[k] = f[k] + rounder; });  // its low bits hold the nearest integer
    each([&](int k) { f[k] -= whole[k] - rounder; });
#endif
    // A minimax polynomial for 2^f on [-1/2, 1/2]: 7.5e-8 relative.
    each([&](int k) { p[k] = fma(all(1.3276472454890609e-3f), f[k], all(9.675540961325169e-3f)); });
    each([&](int k) { p[k] = fma(p[k], f[k], all(5.550713092088699e-2f)); });
    each([&](int k) { p[k] = fma(p[k], f[k], all(2.4022120237350464e-1f)); });
    each([&](int k) { p[k] = fma(p[k], f[k], all(6.931469440460205e-1f)); });
    each([&](int k) { p[k] = fma(p[k], f[k], all(1.0000001192092896f)); });
#if PRISM_LANES == 16
    each([&](int k) { out[k] = _mm512_scalef_ps(p[k], whole[k]); });
#else
    each([&](int k) { out[k] = (V)(((U)p[k] + ((U)whole[k] << 23)) & (U)(t[k] > -126.0f)); });
#endif
}

inline V exp2(V t) {
    const V group[kGroup] = {t, V{}, V{}, V{}};  // what is not used is not computed
    V out[kGroup];
    exp2(group, out);
    return out[0];
}

template <typename T>
float chunk_top(const void* data, int n) {
    const T* x = static_cast<const T*>(data);
    V top[kGroup], v[kGroup];
    for (int k = 0; k < kGroup; ++k) top[k] = all(-kInfinity);
    for (int i = 0; i < n; i += kGroup * W) {
        load_group(x + i, v);
#pragma GCC unroll 4
        for (int k = 0; k < kGroup; ++k) top[k] = max(v[k], top[k]);
    }
    return largest(max(max(top[0], top[1]), max(top[2], top[3])));
}

template <typename T, bool two, bool figures, bool floored>
ChunkSums chunk_sums(const void* data, int n, Weigh drawn, Weigh shown, float floor) {
    const T* x = static_cast<const T*>(data);
    const V zero = {}, scale_drawn = all(drawn.scale), shift_drawn = all(-drawn.shift), scale_shown = all(shown.scale),
            shift_shown = all(-shown.shift);
    // One of each: with one for every vector of the group the registers would not do.
    V sum_drawn = zero, sum_shown = zero, bits = zero, top = all(-kInfinity), second = top;
    for (int i = 0; i < n; i += kGroup * W) {
        V v[kGroup], t[kGroup], w[kGroup];
        const auto each = [](auto step) {
#pragma GCC unroll 4
            for (int k = 0; k < kGroup; ++k) step(k);
        };
        load_group(x + i, v);
        each([&](int k) {
            if (floored) v[k] = v[k] >= floor ? v[k] : all(-kInfinity);
            if (figures) second = max(min(top, v[k]), second);  // a NaN falls through both
            top = max(v[k], top);
            t[k] = fma(v[k], scale_drawn, shift_drawn);
        });
        exp2(t, w);
        sum_drawn += together(w);
        if (two) {
            each([&](int k) { t[k] = fma(v[k], scale_shown, shift_shown); });
            exp2(t, w);
            sum_shown += together(w);
        }
        if (figures) {
            each([&](int k) { t[k] = w[k] > 0.0f ? w[k] * t[k] : zero; });
            bits += together(t);
        }
    }
    ChunkSums out = {sum(sum_drawn), 0, sum(bits), largest(top), -kInfinity};
    out.shown = two ? sum(sum_shown) : out.drawn;
    if (figures) {
        bool taken = false;
        for (int i = 0; i < W; ++i) {
            const bool leader = !taken && top[i] == out.top;
            taken = taken || leader;
            const float rival = leader ? second[i] : top[i];
            out.second = rival > out.second ? rival : out.second;
        }
    }
    return out;
}

template <typename T>
void chunk_weights(const void* data, int n, Weigh w, float floor, float* weight, double* block_sum) {
    const T* x = static_cast<const T*>(data);
    for (int i = 0; i < n; i += kBlock) {
        V total = {};
        for (int j = i; j < i + kBlock; j += kGroup * W) {
            V t[kGroup], e[kGroup];
#pragma GCC unroll 4
            for (int k = 0; k < kGroup; ++k) {
                const V v = load(x + j + k * W);
                t[k] = fma(v >= floor ? v : all(-kInfinity), all(w.scale), all(-w.shift));
            }
            exp2(t, e);
            __builtin_memcpy(weight + j, e, sizeof e);
            total += together(e);
        }
        block_sum[i / kBlock] = sum(total);
    }
}

template <typename T>
void chunk_widen(const void* data, int n, float* out) {
    const T* x = static_cast<const T*>(data);
    const auto put = [&](int i, V v) { __builtin_memcpy(out + i, &v, sizeof v); };
    int i = 0;
    if (sizeof(T) == sizeof(float)) {
        i = n / W * W;
        __builtin_memcpy(out, x, i * sizeof(float));
    }
    for (; i + W <= n; i += W) put(i, load(x + i));
    if (i < n) {
        T last[W] = {};
        __builtin_memcpy(last, x + i, (n - i) * sizeof(T));
        const I seen = count_up(0) < n - i;
        put(i, (V)(((I)load(last) & seen) | ((I)all(-kInfinity) & ~seen)));
        i += W;
    }
    for (; i % kBlock; i += W) put(i, all(-kInfinity));
}

// A bit for each of the kBlock logits that are at least low.
template <typename T>
inline uint64_t reaching(const T* x, V low) {
    uint64_t bits = 0;
#pragma GCC unroll 16
    for (int i = 0; i < kBlock; i += W) bits |= uint64_t{at_least(load(x + i), low)} << i;
    return bits;
}

#if PRISM_LANES == 8
inline uint64_t reaching(const BFloat16* x, V low) {  // two in every word; their masks come together in order
    uint64_t bits = 0;
    for (int i = 0; i < kBlock; i += 4 * W) {
        __m256i mask[2];
        for (int k = 0; k < 2; ++k) {
            const U words = unaligned<U>(x + i + k * 2 * W);
            const I first = (V)(words << 16) >= low, second = (V)(words & 0xFFFF0000u) >= low;
            mask[k] = _mm256_blend_epi16((__m256i)first, (__m256i)second, 0xAA);
        }
        const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(mask[0], mask[1]), 0xD8);
        bits |= uint64_t{uint32_t(_mm256_movemask_epi8(bytes))} << i;
    }
    return bits;
}
#endif

template <typename T>
int chunk_find(const void* data, int n, float value) {
    const T* x = static_cast<const T*>(data);
    for (int i = 0; i < n; i += kBlock) {
        const uint64_t hits = reaching(x + i, all(value));
        if (hits) return i + __builtin_ctzll(hits);
    }
    return n;
}

template <typename T>
__attribute__((flatten)) Peak chunk_peak(const void* data, int n, float scale) {
    const float top = chunk_top<T>(data, n);
    const Weigh by = {scale, scale * top};
    return {top, by.shift, chunk_sums<T, false, false, false>(data, n, by, by, 0).drawn, chunk_find<T>(data, n, top)};
}

#if PRISM_LANES == 8
struct Orders {
    int32_t lane[256][8];
};
constexpr Orders all_orders() {
    Orders orders = {};
    for (int bits = 0; bits < 256; ++bits) {
        for (int i = 0, n = 0; i < 8; ++i) {
            if (bits >> i & 1) orders.lane[bits][n++] = i;
        }
    }
    return orders;
}
constexpr Orders kOrders = all_orders();  // of the lanes whose bit is set, for every set of bits
#endif

// Writes the lanes whose bit is set side by side; what follows them, up to W lanes, may be overwritten.
inline void compress(I v, uint32_t bits, void* out) {
#if PRISM_LANES == 16
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), (__m512i)v));
#elif PRISM_LANES == 8
    const auto order = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kOrders.lane[bits]));
    _mm256_storeu_si256(static_cast<__m256i*>(out), _mm256_permutevar8x32_epi32((__m256i)v, order));
#else
    int32_t side[W];
    int n = 0;
    for (int i = 0; i < W; ++i) {
        side[n & (W - 1)] = v[i];
        n += bits >> i & 1;
    }
    __builtin_memcpy(out, side, sizeof side);
#endif
}

// Where few logits reach low, these are put side by side first, and the arithmetic is done on them alone.
template <typename T>
int64_t chunk_collect(const void* data, int n, int32_t base, Weigh w, float low, float high, float* value, int32_t* id,
                      double* above) {
    const T* x = static_cast<const T*>(data);
    const bool count = w.scale == 0;
    const V lowest = all(low), highest = all(high);
    V over = {};
    int64_t size = 0;
    const auto sort_out = [&](V v, I ids) {
        const V e = count ? all(1.0f) : exp2(fma(v, all(w.scale), all(-w.shift)));
        over += v >= highest ? e : V{};
        const uint32_t inside = at_least(v, lowest) & ~at_least(v, highest);
        compress((I)v, inside, value + size);
        compress(ids, inside, id + size);
        size += __builtin_popcount(inside);
    };
    const I lane = count_up(base);
    if (__builtin_popcountll(reaching(x, lowest)) > kBlock / 3) {
        for (int i = 0; i < n; i += W) sort_out(load(x + i), lane + i);
        *above += sum(over);
        return size;
    }
    float kept[kChunk + kBlock];
    int32_t ids[kChunk + kBlock];
    int few = 0;
    for (int block = 0; block < n; block += kBlock) {
        const uint64_t reached = reaching(x + block, lowest);
        if (!reached) continue;
#pragma GCC unroll 16
        for (int i = 0; i < kBlock; i += W) {
            const uint32_t bits = reached >> i & ((uint64_t{1} << W) - 1);
            compress((I)load(x + block + i), bits, kept + few);
            compress(lane + (block + i), bits, ids + few);
            few += __builtin_popcount(bits);
        }
    }
    for (int i = 0; i < W; ++i) kept[few + i] = -kInfinity;
    for (int i = 0; i < few; i += W) sort_out(load(kept + i), unaligned<I>(ids + i));
    *above += sum(over);
    return size;
}

double list_weight(Listed list, int64_t n, float value, int32_t last) {
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += kChunk) {
        const int64_t end = begin + kChunk < n ? begin + kChunk : n;
        V part = {};
        for (int64_t i = begin; i < end; i += W) {
            const V v = load(list.x + i);
            const I ends = count_up(0) < static_cast<int32_t>(end - i);
            const I kept = (I)(v > value) | ((I)(v == value) & (unaligned<I>(list.id + i) <= last));
            part += (V)((I)load(list.weight + i) & kept & ends);
        }
        total += sum(part);
    }
    return total;
}

int64_t list_pick(Listed list, int64_t n, float low, float high, Listed out) {
    int64_t size = 0;
    for (int64_t i = 0; i < n; i += W) {
        const V v = load(list.x + i);
        const I ends = count_up(0) < static_cast<int32_t>(n - i < W ? n - i : W);
        const uint32_t bits = lanes((v >= low) & (v < high) & ends);
        compress((I)v, bits, out.x + size);
        compress(unaligned<I>(list.weight + i), bits, out.weight + size);
        compress(unaligned<I>(list.id + i), bits, out.id + size);
        size += __builtin_popcount(bits);
    }
    return size;
}

template <typename T>
inline void keys_of(const T* x, const bool* allowed, uint32_t flip, uint32_t* keys) {
    const V v = load(x);
    const I bits = (I)((v == v ? v : all(-kInfinity)) + V{});
    const U key = (U)bits ^ ((U)(bits >> 31) | 0x80000000u) ^ flip;
    const U barred = (U)(__builtin_convertvector(unaligned<B>(allowed), U) == 0u);
    const U out = key | barred;
    __builtin_memcpy(keys, &out, sizeof out);
}

template <typename T>
void score_keys(const void* data, const bool* allowed, int64_t n, uint32_t flip, uint32_t* keys) {
    const T* x = static_cast<const T*>(data);
    int64_t i = 0;
    for (; i + W <= n; i += W) keys_of(x + i, allowed + i, flip, keys + i);
    if (i == n) return;
    T last[W] = {};
    bool may[W] = {};
    uint32_t found[W];
    __builtin_memcpy(last, x + i, (n - i) * sizeof(T));
    __builtin_memcpy(may, allowed + i, n - i);
    keys_of(last, may, flip, found);
    __builtin_memcpy(keys + i, found, (n - i) * sizeof(uint32_t));
}

template <typename T>
constexpr Kernels table() {
    return {chunk_top<T>,
            {chunk_sums<T, false, false, false>, chunk_sums<T, true, false, false>, chunk_sums<T, false, true, false>,
             chunk_sums<T, true, true, false>, chunk_sums<T, false, false, true>, chunk_sums<T, true, false, true>,
             chunk_sums<T, false, true, true>, chunk_sums<T, true, true, true>},
            chunk_weights<T>,
            chunk_widen<T>,
            chunk_find<T>,
            chunk_peak<T>,
            chunk_collect<T>,
            score_keys<T>};
}

template <typename Key>
int64_t below(const Key* keys, int64_t n, Key limit) {
    Key count = 0;  // as wide as the keys, so that the compiler keeps them in one register width
    for (int64_t i = 0; i < n; ++i) count += keys[i] < limit;
    return static_cast<int64_t>(count);
}

}  // namespace

const Lists lists = {list_weight, list_pick};

const Counters counters = {below<uint32_t>, below<uint64_t>};

const Kernels kernels[3] = {table<float>(), table<BFloat16>(), table<Half>()};
