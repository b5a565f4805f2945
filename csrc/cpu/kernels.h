// The inner loops of sampling over one chunk of a row, compiled once for each instruction set and picked at run time.
#pragma once

#include <cstdint>

namespace prism {

constexpr int kChunk = 2048;  // symbols a chunk: fixed, so that sums never depend on threads or batch
constexpr int kBlock = 64;    // kernels take multiples of it

// A weight is 2^(x * scale - shift): the shift is a float that all users of a sum share, so that it carries no error.
struct Weigh {
    float scale, shift;
};

struct ChunkSums {
    double drawn, shown;  // sums of weights under the two distributions
    double bits;          // sum of weight * log2 weight of the shown one
    float top, second;    // the two largest logits
};

struct Peak {
    float top, shift;  // the largest logit, times the scale
    double sum;        // of weights
    int first;         // where that logit stands
};

// What the kernels do for one dtype. NaN counts as -inf; n is a multiple of kBlock.
struct Kernels {
    float (*top)(const void* x, int n);
    // Bits of the index: 1 two distributions, 2 figures (second, bits) wanted, 4 only logits >= floor count.
    ChunkSums (*sums[8])(const void* x, int n, Weigh drawn, Weigh shown, float floor);
    // Weights of the logits >= floor, and their sum in every block.
    void (*weights)(const void* x, int n, Weigh w, float floor, float* weight, double* block_sum);
    // n logits of any number as float, followed by -inf up to a multiple of kBlock.
    void (*widen)(const void* x, int n, float* out);
    // The first index whose logit is value or more; n if none.
    int (*find)(const void* x, int n, float value);
    // All three in one call, for rows of one chunk.
    Peak (*peak)(const void* x, int n, float scale);
    // Lists every logit in [low, high) in value, with base + index in id, both with room for kBlock more, and returns
    // how many; adds the weight of those >= high to *above. Every weight is 1 where w.scale is 0. n is at most kChunk.
    int64_t (*collect)(const void* x, int n, int32_t base, Weigh w, float low, float high, float* value, int32_t* id,
                       double* above);
    // Scores as keys of the same order (common/order.h), xor flip, all ones where allowed is 0; any n.
    void (*keys)(const void* x, const bool* allowed, int64_t n, uint32_t flip, uint32_t* keys);
};

// Logits side by side, with what they weigh and their ids in rising order; arrays have room for kBlock more.
struct Listed {
    float *x, *weight;
    int32_t* id;
};

// The inner loops of the search in a list.
struct Lists {
    // What all x > value, and x == value up to id last, weigh together.
    double (*weight)(Listed list, int64_t n, float value, int32_t last);
    // Copies all x in [low, high) and returns how many.
    int64_t (*pick)(Listed list, int64_t n, float low, float high, Listed out);
};

// How many keys are below a limit: the inner loop of selection.
struct Counters {
    int64_t (*below32)(const uint32_t* keys, int64_t n, uint32_t limit);
    int64_t (*below64)(const uint64_t* keys, int64_t n, uint64_t limit);
};

enum class Dtype { kFloat, kBFloat16, kHalf };

namespace portable {
extern const Kernels kernels[3];
extern const Lists lists;
extern const Counters counters;
}  // namespace portable
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define PRISM_X86_LEVELS
namespace avx2 {
extern const Kernels kernels[3];
extern const Lists lists;
extern const Counters counters;
}  // namespace avx2
namespace avx512 {
extern const Kernels kernels[3];
extern const Lists lists;
extern const Counters counters;
}  // namespace avx512
#endif

// The best set this machine has, or the one that PRISM_ISA (portable, avx2, avx512) names.
const Kernels& kernels(Dtype dtype);
const Lists& lists();
const Counters& counters();
const char* instruction_set();

}  // namespace prism
