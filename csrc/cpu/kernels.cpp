#include "kernels.h"

#include <cstdlib>
#include <cstring>

namespace prism {
namespace {

struct Level {
    const char* name;
    const Kernels* kernels;
    const Lists* lists;
    const Counters* counters;
};

Level pick() {
#ifdef PRISM_X86_LEVELS
    const char* wanted = std::getenv("PRISM_ISA");
    const auto allows = [&](const char* name) { return !wanted || !std::strcmp(wanted, name); };
    if (allows("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        return {"avx512", avx512::kernels, &avx512::lists, &avx512::counters};
    }
    if (allows("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return {"avx2", avx2::kernels, &avx2::lists, &avx2::counters};
    }
#endif
    return {"portable", portable::kernels, &portable::lists, &portable::counters};
}

const Level& level() {
    static const Level picked = pick();
    return picked;
}

}  // namespace

const Kernels& kernels(Dtype dtype) {
    return level().kernels[static_cast<int>(dtype)];
}

const Lists& lists() {
    return *level().lists;
}

const Counters& counters() {
    return *level().counters;
}

const char* instruction_set() {
    return level().name;
}

}  // namespace prism
