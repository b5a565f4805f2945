// Runs the text of a .cu file on the CPU: blocks one after the other, the threads of a block as fibers that hand over
// at barriers and shuffles. For tests of the kernels' logic where no GPU is; speed says nothing here.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define threadIdx (prism::simt::machine().thread)
#define blockIdx (prism::simt::machine().block)
#define blockDim (prism::simt::machine().size)

using cudaStream_t = void*;
using cudaError_t = int;

namespace prism::simt {

struct Index {
    unsigned x;
};

struct Barrier {
    unsigned arrived = 0, generation = 0;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
};

struct Machine {
    Index thread, block, size;
    ucontext_t scheduler;
    std::vector<Fiber> fibers;
    std::vector<Barrier> warps;
    std::vector<double> lanes;  // 8 bytes a thread, for shuffles
    Barrier all;
    uint64_t events = 0;  // arrivals and exits: a round without any is a deadlock
    std::function<void()> body;
};

inline Machine& machine() {
    static Machine m;
    return m;
}

inline void wait(Barrier& barrier, unsigned size) {
    Machine& m = machine();
    const unsigned generation = barrier.generation;
    ++m.events;
    if (++barrier.arrived == size) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    while (barrier.generation == generation) {
        const unsigned self = m.thread.x;
        swapcontext(&m.fibers[self].context, &m.scheduler);
    }
}

inline void run_fiber() {
    Machine& m = machine();
    m.body();
    m.fibers[m.thread.x].done = true;
    ++m.events;
    swapcontext(&m.fibers[m.thread.x].context, &m.scheduler);
}

inline void run_block() {
    Machine& m = machine();
    constexpr size_t stack_bytes = 128 << 10;
    for (Fiber& fiber : m.fibers) {
        if (!fiber.stack) fiber.stack = std::make_unique<char[]>(stack_bytes);
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = stack_bytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (size_t left = m.fibers.size(); left > 0;) {
        const uint64_t before = m.events;
        for (unsigned t = 0; t < m.fibers.size(); ++t) {
            if (m.fibers[t].done) continue;
            m.thread.x = t;
            swapcontext(&m.scheduler, &m.fibers[t].context);
            left -= m.fibers[t].done;
        }
        if (m.events == before) {
            std::fprintf(stderr, "simt: a barrier that not all threads reach, in block %u\n", m.block.x);
            std::abort();
        }
    }
}

template <typename Kernel>
void launch(unsigned blocks, unsigned threads, Kernel kernel) {
    Machine& m = machine();
    m.size.x = threads;
    m.fibers.resize(threads);
    m.lanes.resize(threads);
    m.warps.assign((threads + 31) / 32, {});
    m.all = {};
    m.body = kernel;
    for (m.block.x = 0; m.block.x < blocks; ++m.block.x) run_block();
}

}  // namespace prism::simt

inline void __syncthreads() {
    auto& m = prism::simt::machine();
    prism::simt::wait(m.all, m.size.x);
}

namespace prism::simt {

// What lane `source(self)` of the warp holds.
template <typename T, typename Source>
T exchange(T value, Source source) {
    static_assert(sizeof(T) <= sizeof(double));
    Machine& m = machine();
    const unsigned self = m.thread.x, from = self / 32 * 32 + source(self % 32);
    Barrier& warp = m.warps[self / 32];
    std::memcpy(&m.lanes[self], &value, sizeof value);
    wait(warp, 32);
    std::memcpy(&value, &m.lanes[from], sizeof value);
    wait(warp, 32);
    return value;
}

}  // namespace prism::simt

template <typename T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    return prism::simt::exchange(value, [=](unsigned lane) { return lane ^ mask; });
}

template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned offset) {
    return prism::simt::exchange(value, [=](unsigned lane) { return lane >= offset ? lane - offset : lane; });
}

template <typename T>
T __shfl_sync(unsigned, T value, int source) {
    return prism::simt::exchange(value, [=](unsigned) { return static_cast<unsigned>(source); });
}

inline unsigned __ballot_sync(unsigned, bool value) {
    unsigned bits = value ? 1u << prism::simt::machine().thread.x % 32 : 0;
    for (unsigned mask = 1; mask < 32; mask *= 2) bits |= __shfl_xor_sync(~0u, bits, mask);
    return bits;
}

inline int __ffs(int bits) {
    return __builtin_ffs(bits);
}

inline float __expf(float x) {
    return std::exp(x);
}

inline unsigned atomicOr(unsigned* address, unsigned value) {
    const unsigned old = *address;
    *address |= value;
    return old;
}

template <typename T>
T atomicAdd(T* address, T value) {
    const T old = *address;
    *address += value;
    return old;
}

inline cudaError_t cudaGetLastError() {
    return 0;
}

#define PRISM_LAUNCH(kernel, blocks, threads, stream, ...)                                   \
    prism::simt::launch(static_cast<unsigned>(blocks), static_cast<unsigned>(threads), [=] { \
        (void)stream;                                                                        \
        kernel(__VA_ARGS__);                                                                 \
    })
