// One row of logits: the token drawn and the figures asked for.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"

namespace prism {

// What the rows of one call share; prism_plugin/ops/sample.py says what the settings mean.
struct Settings {
    int64_t vocabulary;
    double temperature, top_p;
    int64_t top_k;
    double min_p;
    bool untempered, inclusive, margin, entropy, given;

    bool ranks() const { return top_p < 1 || (top_k > 0 && top_k < vocabulary); }
    bool truncates() const { return ranks() || min_p > 0; }
    bool greedy() const { return temperature == 0; }
    double heat() const { return greedy() ? 1 : temperature; }  // of the distribution drawn from
};

// A logit that is not as it stands in the row.
struct Edit {
    int64_t id;
    double value;
};
using Edits = std::vector<Edit>;  // ids rise, each once, inside the vocabulary

struct Drawn {
    int64_t token = -1;
    double prob = 0, margin = 0, entropy = 0, given = 0;
};

// In double, with sorted truncation: float64 logits, and rows that float32 sums cannot hold.
class ExactRow {
  public:
    explicit ExactRow(const Settings& settings) : s_(settings) {}

    // at(i) is logit i; given < 0 or >= the vocabulary holds no probability.
    template <typename At>
    Drawn run(At at, const Edits& edits, double u, int64_t given) {
        x_.resize(s_.vocabulary);
        for (int64_t i = 0; i < s_.vocabulary; ++i) x_[i] = at(i);
        for (const Edit& edit : edits) x_[edit.id] = edit.value;
        return run_loaded(u, given);
    }

  private:
    Drawn run_loaded(double u, int64_t given);
    void truncate(double total, double top);

    const Settings& s_;
    std::vector<double> x_, hot_, plain_;
    std::vector<int64_t> order_;
};

// Streams over a row once (three times with top_p or top_k), chunk by chunk.
class ChunkedRow {
  public:
    ChunkedRow(const Settings& settings, Dtype dtype);

    // False where the logits are too large for float32 exponents: the exact row has to take over.
    bool run(const void* row, const Edits& edits, double u, int64_t given, Drawn* out);

  private:
    struct Distribution {  // a sum of weights a chunk, each with its own power of two
        float scale;
        std::vector<float> shifts;
        std::vector<double> sums, bit_sums;  // bits: sums of weight * log2 weight
        float base = 0;                      // the largest shift in use
        double total = 0, bits = 0;          // in units of 2^base
        void put(int64_t chunk, float shift, double sum, double bits);
        void close();
        double lift(int64_t chunk) const;
        double prob(float x) const;
    };
    struct View {
        const Kernels* kernels;
        const void* data;
        int size;  // a multiple of kBlock, padded with -inf
    };
    struct Cut {  // what is kept: x > value, and x == value up to id last
        float value;
        int64_t last;
    };
    struct Bracket {
        float low, high;
    };
    // The logits inside a bracket, in the order of their ids. Room for a whole row, of which few pages are written:
    // zeros would cost more than the search, where a call has few rows.
    struct Candidates {
        std::unique_ptr<float[]> x, weight;
        std::unique_ptr<int32_t[]> id;
        int64_t size = 0;
        void reserve(int64_t room) {
            x.reset(new float[room]);
            weight.reset(new float[room]);
            id.reset(new int32_t[room]);
        }
        Listed from(int64_t begin) { return {&x[begin], &weight[begin], &id[begin]}; }
    };

    bool scan(bool show);  // false where the logits are too large for float32 exponents
    int64_t draw(double u);
    int64_t first_top();
    Cut cut();
    Cut least_likely() const;
    Cut ranked();
    Cut crossing(bool count, double limit, bool inclusive);
    Bracket certain(bool count, double limit) const;
    Bracket guess(bool count, double limit);
    Cut resolve(Bracket within, double before, double limit, bool inclusive);
    void weigh(Candidates& list);
    bool settle(bool show);

    View view(int64_t chunk);          // with its edits, without what is cut by its id
    float floor(int64_t chunk) const;  // what the cut leaves of this chunk's ties
    const void* at(int64_t id) const;
    float raw(int64_t id) const;
    Edits::const_iterator edit(int64_t id) const;  // the first of this id or a later one
    float logit(int64_t id) const;                 // as edited, -inf for NaN

    const Settings& s_;
    const Dtype dtype_;
    const int64_t chunks_;
    const bool short_;  // one chunk, and the largest logit is all that is looked for
    const void* row_ = nullptr;
    const Edits* edits_ = nullptr;
    Cut cut_{};
    Distribution drawn_, shown_;
    float top_ = 0, second_ = 0;
    int64_t top_chunk_ = 0;
    int64_t copied_ = -1;                               // the chunk that copy_ holds
    alignas(64) float copy_[kChunk], weights_[kChunk];  // no vector of the largest set lies across two lines
    double block_sums_[kChunk / kBlock];
    Candidates found_{}, left_[2];
    bool counted_ = false;       // the weights of the last search were 1
    std::vector<double> above_;  // of every chunk: the weight above the bracket,
    std::vector<int64_t> ends_;  // and where its candidates end
    std::vector<double> sums_;
};

}  // namespace prism
