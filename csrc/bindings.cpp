// torch.ops.prism, and the module whose import registers it.

#include <Python.h>
#include <torch/library.h>

#include "cpu/kernels.h"
#include "cpu/ops.h"

TORCH_LIBRARY(prism, m) {
    m.def("philox_uniform(int seed, Tensor request, Tensor position, Tensor step, int stream, int draw) -> Tensor");
    m.def("select_lowest(Tensor scores, Tensor eligible, Tensor counts) -> Tensor");
    m.def("select_highest(Tensor scores, Tensor eligible, Tensor counts) -> Tensor");
    m.def("remask_scatter_(Tensor(a!) tokens, Tensor scores, Tensor eligible, Tensor counts, int mask_id) -> Tensor");
    m.def("fill_scatter_(Tensor(a!) tokens, Tensor x0, Tensor confidence, Tensor eligible, Tensor counts) -> Tensor");
    m.def(
        "fill_rows(Tensor tokens, Tensor written, Tensor index, Tensor token, Tensor prob, Tensor? rank, "
        "Tensor? counts) -> (Tensor, Tensor, Tensor)");
    m.def(
        "list_rows(Tensor where, Tensor request, Tensor place, Tensor step, int? size) -> "
        "(Tensor, Tensor, Tensor, Tensor)");
    m.def("spread(Tensor index, Tensor values, float fill, int[] shape) -> Tensor");
    m.def("live_rows(Tensor index) -> (Tensor, Tensor)");
    m.def("even_split(Tensor step, Tensor size, Tensor steps) -> Tensor");
    m.def(
        "end_step(Tensor step, Tensor block, Tensor block_step, Tensor blocks, Tensor budget, Tensor? done) -> "
        "(Tensor, Tensor, Tensor)");
    m.def(
        "sample_rows(Tensor logits, Tensor rows, Tensor request, Tensor position, Tensor step, int seed, "
        "float temperature, float top_p, int top_k, float min_p, Tensor? suppress, Tensor? bias_ids, Tensor? bias, "
        "Tensor? seen, Tensor? seen_of, float penalty, bool untempered, bool inclusive, Tensor? given, bool margin, "
        "bool entropy, int stream) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
    m.def("instruction_set() -> str", [] { return std::string(prism::instruction_set()); });
}

TORCH_LIBRARY_IMPL(prism, CPU, m) {
    m.impl("philox_uniform", prism::philox_uniform);
    m.impl("select_lowest", prism::select_lowest);
    m.impl("select_highest", prism::select_highest);
    m.impl("remask_scatter_", prism::remask_scatter_);
    m.impl("fill_scatter_", prism::fill_scatter_);
    m.impl("fill_rows", prism::fill_rows);
    m.impl("list_rows", prism::list_rows);
    m.impl("spread", prism::spread);
    m.impl("live_rows", prism::live_rows);
    m.impl("even_split", prism::even_split);
    m.impl("end_step", prism::end_step);
    m.impl("sample_rows", prism::sample_rows);
}

PyMODINIT_FUNC PyInit__C() {
    static PyModuleDef module = {
        PyModuleDef_HEAD_INIT, "_C", "Registers torch.ops.prism.", -1, nullptr, nullptr, nullptr, nullptr, nullptr};
    return PyModule_Create(&module);
}
