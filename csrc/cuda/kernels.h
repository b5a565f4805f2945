// The CUDA kernels' launchers, against raw device pointers and a stream. Written for compute capability 8.0 and newer;
// compiled for 8.0, 9.0 and 10.0, and run on the CPU through simt.h; not yet run on a GPU. Launches only: nothing is
// allocated, copied or waited for and no device value is read by the host, so all of it can be captured in a CUDA
// graph.
#pragma once

#include <cstdint>

extern "C" {

enum PrismDtype { kPrismFloat, kPrismDouble, kPrismBFloat16, kPrismHalf };

// Contiguous where no stride is given. tokens may be null (select alone), fill may be null (mask_id is written).
struct PrismSelect {
    const void* scores;  // (batch, length), of dtype
    int64_t dtype, down, across;
    const bool* eligible;
    const int64_t* counts;
    int64_t batch, length, highest;
    bool* chosen;
    void* tokens;  // (batch, length) int64, or int32 where narrow
    int64_t narrow, token_down, token_across;
    const void* fill;
    int64_t mask_id;
};

// Pointers to what is not asked for are null.
struct PrismSample {
    const void* logits;  // rows `stride` elements apart
    int64_t dtype, stride, vocabulary, count;
    const int64_t *rows, *request, *position, *step, *given, *suppress, *bias_ids;
    const float* bias;              // what is added to the logits of bias_ids
    const int64_t *seen, *seen_of;  // (any, seen_width) ids that are penalised, and which of them each row looks at
    int64_t suppressed, biased, seen_width, seed, stream, top_k, untempered, inclusive;
    double temperature, top_p, min_p, penalty;
    void* scratch;  // prism_cuda_sample_scratch bytes, aligned to 16
    int64_t* token;
    float *prob, *margin, *entropy, *given_prob;
};

// stream: a cudaStream_t. All return a cudaError_t.
int prism_cuda_uniform(int64_t seed, const int64_t* request, const int64_t* position, const int64_t* step,
                       int64_t stream_word, int64_t draw, int64_t count, double* out, void* stream);
int prism_cuda_select(const PrismSelect* arguments, int64_t threads, void* stream);
int64_t prism_cuda_sample_scratch(int64_t count, int64_t vocabulary);
int prism_cuda_sample(const PrismSample* arguments, int64_t threads, void* stream);
}
